"""What can be sent to the page: images, of a bounded size, and never the name of a file or an address."""

from __future__ import annotations

import http.client
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from people import web

from app.door.guard import MOST_SENT, MOST_UPLOADED
from jepack.decoding import MAX_BYTES
from jepack.sources import find_images

KIND = {"Content-Type": "multipart/form-data; boundary=x"}


def form(name: str, data: bytes = b"abc") -> bytes:
    head = f'Content-Disposition: form-data; name="files"; filename="{name}"'.encode()
    return b"--x\r\n" + head + b"\r\n\r\n" + data + b"\r\n--x--\r\n"


NAMES = [
    "a.png", "../../../../tmp/jepack-evil.png", "/tmp/jepack-evil.png", "..\\..\\jepack-evil.png",
    "a/../../jepack-evil.png", "%2e%2e%2fjepack-evil.png", "..", ".", "~/jepack-evil.png", "x" * 300 + ".png",
    "jepack-evil.png\0.txt", "$HOME", "`id`.png",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_an_uploads_name_chooses_no_place(anna: httpx.Client, name: str) -> None:
    answer = anna.post("/gradio_api/upload", content=form(name), headers=KIND)
    if answer.status_code != 200:
        assert answer.status_code in (400, 422)
        return
    [place] = answer.json()
    above = [one.name for one in Path(place).parents]
    assert ".." not in Path(place).parts
    assert any(one.startswith("jepack-page-") for one in above)
    assert Path(place).read_bytes() == b"abc"
    assert not Path("/tmp/jepack-evil.png").exists()


def test_uploads_are_for_those_who_logged_in(guarded: str) -> None:
    with web(guarded) as http:
        answer = http.post("/gradio_api/upload", content=form("a.png"), headers=KIND)
        assert answer.status_code == 401


def kept(anna: httpx.Client) -> set[Path]:
    [place] = anna.post("/gradio_api/upload", content=form("a.png"), headers=KIND).json()
    folder = next(one for one in Path(place).parents if one.name.startswith("jepack-page-"))
    return {one for one in folder.rglob("*") if one.is_file() and one.stat().st_size > 1000}


def test_an_upload_larger_than_an_image_may_be_is_refused_and_leaves_nothing(
    anna: httpx.Client,
) -> None:
    before = kept(anna)
    head, _, tail = form("a.png", b"SPLIT").partition(b"SPLIT")

    def pieces() -> Iterator[bytes]:
        yield head
        for _ in range(64):
            yield bytes(1 << 20)
        yield bytes(MAX_BYTES - (1 << 26) + 1)
        yield tail

    answer = anna.post("/gradio_api/upload", content=pieces(), headers=KIND)
    assert answer.status_code == 413
    assert kept(anna) == before


@pytest.mark.parametrize(
    ("path", "most"), [("queue/join", MOST_SENT), ("upload", MOST_UPLOADED), ("reset", MOST_SENT)]
)
def test_a_request_that_announces_too_much_is_refused_before_it_sends(
    digits_page: str, path: str, most: int
) -> None:
    for told in (str(most + 1), "9" * 30):
        connection = http.client.HTTPConnection(urlsplit(digits_page).netloc, timeout=300)
        connection.putrequest("POST", f"/gradio_api/{path}")
        connection.putheader("Content-Length", told)
        connection.endheaders()
        assert connection.getresponse().status in (400, 413)
        connection.close()


def test_a_request_that_sends_too_much_unannounced_is_refused(digits_page: str) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(MOST_SENT // (1 << 20) + 2):
            yield b" " * (1 << 20)

    kind = {"Content-Type": "application/json"}
    with web(digits_page) as http:
        assert http.post("/gradio_api/queue/join", content=pieces(), headers=kind).status_code in (
            400,
            413,
        )
        assert http.get("/config").status_code == 200


def told(http: httpx.Client, value: Any) -> list[str]:
    """The last word of every event that an upload begins, when `value` is said to be one."""
    jobs = [
        one
        for one in http.get("/config").json()["dependencies"]
        if one["targets"] and one["targets"][0][1] == "upload"
    ]
    assert jobs
    visitor = f"visitor-{random.random()}"
    for job in jobs:
        data = [value if one == job["targets"][0][0] else None for one in job["inputs"]]
        body = {"data": data, "fn_index": job["id"], "session_hash": visitor}
        assert http.post("/gradio_api/queue/join", json=body).status_code == 200
    stream = http.get("/gradio_api/queue/data", params={"session_hash": visitor}).text
    found = [line for line in stream.splitlines() if "process_completed" in line]
    assert len(found) == len(jobs)
    return found


META = {"meta": {"_type": "gradio.FileData"}}


def test_an_upload_that_names_a_file_or_an_address_is_neither_read_nor_fetched_nor_deleted(
    anna: httpx.Client,
    canary: tuple[int, Callable[[], bool]],
    digits_folder: Path,
    tmp_path: Path,
) -> None:
    port, came = canary
    victim = tmp_path / "victim.png"
    shutil.copy(find_images(digits_folder)[0].path, victim)
    address = f"http://127.0.0.1:{port}/a.png"
    [place] = anna.post("/gradio_api/upload", content=form("a.png"), headers=KIND).json()
    link = Path(place).with_name("link.png")  # as if somebody had got one there
    link.symlink_to(victim)
    up = f"{Path(place).parent}/../../../../../../../../../..{victim}"
    values: list[dict[str, Any]] = [
        {"path": one, **META} for one in (str(victim), up, f"file://{victim}", address, str(link))
    ]
    values += [
        {"path": str(victim)},  # without META Gradio would not look at its path
        {"path": str(victim), "orig_name": "a.png", "is_stream": True, **META},
        {"path": "a.png", "url": address, **META},
        {"url": address},
    ]
    for value in values:
        for last in told(anna, [value]):
            assert '"success":false' in last, (value, last)
            assert "jp-card" not in last, value
    assert victim.read_bytes() == find_images(digits_folder)[0].path.read_bytes()
    assert not came()
