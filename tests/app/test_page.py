"""The page as a visitor meets it, in a real browser."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from pixel_embedder import (
    NobodyThere,
    OtherEncoder,
    PixelEmbedder,
    index_digits,
    page_of,
    pixel_vector,
    running,
)

from app.lance import open_index
from app.page import launch
from app.screenshot import WAIT_S, choose, take, wait_for
from jepack.errors import ArtifactError, ServerError
from jepack.sources import find_images


def cards(driver: Any) -> list[tuple[str, float]]:
    """(image id, distance) of the neighbours shown, in order."""
    script = (
        "return [...document.querySelectorAll('#jp-results .jp-card')].map(card =>"
        " [card.dataset.id, Number(card.querySelector('[data-distance]').dataset.distance)])"
    )
    return [(name, distance) for name, distance in driver.execute_script(script)]


def query(driver: Any) -> str:
    """The file name of the image that asks."""
    script = "return document.querySelector('.jp-query strong')?.textContent ?? ''"
    return str(driver.execute_script(script))


def gallery(driver: Any) -> list[str]:
    wait_for(driver, "#jp-gallery [data-id]")
    script = (
        "return [...document.querySelectorAll('#jp-gallery [data-id]')].map(one => one.dataset.id)"
    )
    return list(driver.execute_script(script))


def upload(driver: Any, path: Path) -> None:
    wait_for(driver, "#jp-upload input[type=file]")[0].send_keys(str(path))


def wait_until(driver: Any, true: Callable[[], bool]) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, WAIT_S).until(lambda _: true())


def nearest(data: Path, query: np.ndarray, k: int) -> list[tuple[str, float]]:
    """What numpy says, over the images themselves."""
    images = find_images(data)
    rows = np.stack([pixel_vector(image.path) for image in images])
    distances = 1 - rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)
    names = [image.path.relative_to(data).as_posix() for image in images]
    return sorted(zip(names, distances.tolist(), strict=True), key=lambda pair: pair[1])[:k]


@pytest.mark.browser
def test_clicking_an_image_shows_its_nearest_others(
    driver: Any, digits_page: str, digits_folder: Path
) -> None:
    driver.get(digits_page)
    choose(driver, 3)
    name = gallery(driver)[3]
    shown = cards(driver)
    wanted = nearest(digits_folder, pixel_vector(digits_folder / name), 11)
    assert wanted.pop(0)[0] == name == Path(name).parent.name + "/" + query(driver)
    assert [one for one, _ in shown] == [one for one, _ in wanted]
    assert [far for _, far in shown] == pytest.approx([far for _, far in wanted], abs=1e-6)
    label = name.split("/")[0]
    captions = [card.text for card in wait_for(driver, ".jp-card")]
    assert [label in text for text in captions] == [one.startswith(label) for one, _ in shown]


@pytest.mark.browser
def test_clicking_a_neighbour_searches_with_it(driver: Any, digits_page: str) -> None:
    driver.get(digits_page)
    choose(driver)
    second = cards(driver)[1][0]
    wait_for(driver, ".jp-card")[1].click()
    wait_until(driver, lambda: query(driver) == Path(second).name)
    wait_until(driver, lambda: second not in [name for name, _ in cards(driver)])


@pytest.mark.browser
def test_the_slider_changes_how_many_are_shown_also_from_the_keyboard(
    driver: Any, digits_page: str
) -> None:
    from selenium.webdriver.common.keys import Keys

    driver.get(digits_page)
    choose(driver)
    before = cards(driver)
    assert len(before) == 10
    wait_for(driver, "#jp-k input[type=range]")[0].send_keys(Keys.ARROW_RIGHT * 3)
    wait_until(driver, lambda: len(cards(driver)) == 13)
    assert cards(driver)[:10] == before


@pytest.mark.browser
def test_the_gallery_turns_pages_and_keeps_to_a_label(driver: Any, digits_page: str) -> None:
    driver.get(digits_page)
    first = gallery(driver)
    assert len(first) == 24
    wait_for(driver, "#jp-pager button")[1].click()
    wait_until(driver, lambda: gallery(driver) != first)
    assert not set(gallery(driver)) & set(first)
    wait_for(driver, "#jp-labels input")[0].click()
    next(one for one in wait_for(driver, "[role=option]") if "digit-3" in one.text).click()
    wait_until(driver, lambda: all(one.startswith("digit-3/") for one in gallery(driver)))


@pytest.mark.browser
def test_an_uploaded_image_finds_its_neighbours(
    driver: Any, digits_page: str, digits_folder: Path, tmp_path: Path
) -> None:
    image = find_images(digits_folder)[7].path
    with Image.open(image) as original:
        tilted = tmp_path / f"tilted-{os.getpid()}.png"
        original.rotate(10, fillcolor=0).save(tilted)
    driver.get(digits_page)
    wait_for(driver, ".jp-ready")
    upload(driver, tilted)
    wait_for(driver, ".jp-card", count=10)
    wanted = nearest(digits_folder, pixel_vector(tilted), 10)
    assert [one for one, _ in cards(driver)] == [one for one, _ in wanted]
    assert tilted.name in wait_for(driver, ".jp-query")[0].text
    kept = list(Path(tempfile.gettempdir()).glob("jepack-page-*"))
    assert kept
    assert not [one for folder in kept for one in folder.rglob(tilted.name)]


@pytest.mark.browser
def test_a_bad_upload_is_explained_and_the_page_lives(
    driver: Any, digits_page: str, tmp_path: Path
) -> None:
    driver.get(digits_page)
    gallery(driver)
    note = "return document.querySelector('[role=alert]')?.innerText ?? ''"
    for name, data, told in (
        ("torn.png", b"\x89PNG torn off", "not an image of a known format"),
        ("empty.png", b"", "empty"),
        ("notes.txt", b"hello", "not an image of a known format"),
    ):
        (tmp_path / name).write_bytes(data)
        upload(driver, tmp_path / name)
        wait_until(driver, lambda name=name: driver.execute_script(note).startswith(f"{name}: "))  # type: ignore
        assert told in driver.execute_script(note)
    choose(driver)
    assert len(cards(driver)) == 10
    assert not driver.find_elements("css selector", "[role=alert]")


@pytest.mark.browser
def test_without_an_endpoint_clicking_works_and_an_upload_says_what_to_start(
    driver: Any, digits_index: Path, digits_folder: Path
) -> None:
    with page_of(digits_index, NobodyThere) as url:
        driver.get(url)
        told = wait_for(driver, ".jp-down")[0].text
        assert "clicking works" in told
        assert "jepack serve BUNDLE --port 9" in told
        choose(driver)
        assert len(cards(driver)) == 10
        upload(driver, find_images(digits_folder)[0].path)
        assert "jepack serve" in wait_for(driver, "[role=alert]")[0].text


@pytest.mark.browser
def test_an_endpoint_with_another_encoder_is_told_apart_and_its_vectors_are_refused(
    driver: Any, digits_index: Path, digits_folder: Path
) -> None:
    with page_of(digits_index, OtherEncoder) as url:
        driver.get(url)
        assert "another encoder" in wait_for(driver, ".jp-other")[0].text
        upload(driver, find_images(digits_folder)[0].path)
        note = wait_for(driver, "[role=alert]")[0].text
    assert "00000000000000ff" in note
    assert "jepack index" in note


@pytest.mark.browser
def test_the_page_speaks_to_nobody_but_its_own_server_and_logs_no_error(
    driver: Any, digits_page: str
) -> None:
    driver.get("about:blank")  # the page of the test before may still be asking its server
    driver.get_log("performance"), driver.get_log("browser")
    driver.get(digits_page)
    choose(driver)
    asked = set()
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            address = urlsplit(message["params"]["request"]["url"])
            if address.scheme not in ("data", "blob", "chrome"):
                asked.add(address.netloc)
    assert asked == {urlsplit(digits_page).netloc}
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.browser
def test_a_file_name_is_shown_as_text_whatever_it_says(
    driver: Any, tmp_path: Path, digits_folder: Path
) -> None:
    names = [
        "<img src=x onerror=alert(1)>.png",
        "${alert(2)}.png",
        "{{value}}.png",
        '"onmouseover="alert(3).png',
        "it's 100% `x`.png",
    ]
    folder = tmp_path / "data" / "<b>bold<b>"
    folder.mkdir(parents=True)
    for name, image in zip(names, find_images(digits_folder), strict=False):
        shutil.copy(image.path, folder / name)
    with page_of(index_digits(tmp_path / "data", tmp_path / "index")) as url:
        driver.get(url)
        choose(driver)
        shown = [Path(one).name for one, _ in cards(driver)]
        assert sorted([*shown, query(driver)]) == sorted(names)
        assert "<b>bold<b>" in wait_for(driver, ".jp-query")[0].text
        assert (
            driver.execute_script("return document.querySelectorAll('#jp-results b b').length") == 0
        )


@pytest.mark.browser
def test_an_index_rebuilt_under_an_open_page_is_taken_up(
    driver: Any, digits_folder: Path, digits_index: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "index"
    shutil.copytree(digits_index, folder)
    smaller = tmp_path / "data"
    shutil.copytree(digits_folder / "digit-1", smaller / "digit-1")
    with page_of(folder) as url:
        driver.get(url)
        choose(driver)
        index_digits(smaller, folder)
        wait_for(driver, "#jp-pager button")[1].click()
        wait_until(driver, lambda: all(one.startswith("digit-1/") for one in gallery(driver)))
        wait_for(driver, "#jp-gallery [data-id]")[0].click()
        wait_until(driver, lambda: len(cards(driver)) == open_index(folder).count() - 1 < 9)


@pytest.mark.browser
def test_a_picture_of_the_page_has_the_size_asked_for(
    driver: Any, digits_page: str, tmp_path: Path
) -> None:
    take(digits_page, tmp_path / "page.png", width=1000, height=700)
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.size == (1000, 700)


@pytest.mark.browser
@pytest.mark.triton
def test_an_upload_travels_through_the_real_triton(
    driver: Any, triton_server: Any, digits_folder: Path, tmp_path: Path
) -> None:
    jepack = [sys.executable, "-m", "jepack"]
    at = ["--url", triton_server.url]
    index = [*jepack, "index", str(digits_folder), "--out", str(tmp_path / "index"), *at]
    subprocess.run([*index, "--output", "projection"], check=True, timeout=300)
    with running([*jepack, "app", str(tmp_path / "index"), "--port", "0", *at]) as url:
        driver.get(url)
        assert triton_server.url in wait_for(driver, ".jp-ready")[0].text
        image = find_images(digits_folder)[11].path
        upload(driver, image)
        wait_for(driver, ".jp-card", count=10)
        first, distance = cards(driver)[0]
    assert first == image.relative_to(digits_folder).as_posix()
    assert distance == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_page_opens_past_a_proxy_and_beside_another_users_and_leaves_nothing(
    number: signal.Signals, digits_index: Path, tmp_path: Path
) -> None:
    """`gradio` in the folder for temporary files is the first user's alone; uploads still arrive."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "gradio").write_text("another user's, in place of a folder that cannot be written")
    command = [sys.executable, "-m", "jepack", "app", str(digits_index), "--port", "0"]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead = {
            name: f"{scheme}://127.0.0.1:{closed.getsockname()[1]}"
            for name, scheme in (
                ("http_proxy", "http"),
                ("HTTPS_PROXY", "http"),
                ("ALL_PROXY", "socks5"),
            )
        }
        environment = {**os.environ, **dead, "no_proxy": "", "NO_PROXY": "", "TMPDIR": str(shared)}
        environment.pop("GRADIO_TEMP_DIR", None)
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as page:
            assert page.stdout is not None
            url = page.stdout.readline().split(" ")[0]
            assert url.startswith("http://127.0.0.1:"), page.communicate()
            [own] = shared.glob("jepack-page-*")
            assert own.stat().st_mode & 0o777 == 0o700
            head = b'Content-Disposition: form-data; name="files"; filename="a.png"'
            form = b"--x\r\n" + head + b"\r\n\r\nabc\r\n--x--"
            connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=300)
            kind = {"Content-Type": "multipart/form-data; boundary=x"}
            connection.request("POST", "/gradio_api/upload", form, kind)
            answer = connection.getresponse()
            [place] = json.loads(answer.read())
            connection.close()
            assert own in Path(place).parents
            page.send_signal(number)
            out, err = page.communicate(timeout=300)
    assert page.returncode == 130
    assert "Traceback" not in out + err
    assert [path.name for path in shared.iterdir()] == ["gradio"]


def test_a_taken_port_is_named_with_what_to_try(digits_index: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ServerError, match=rf"port {port} .*--port 0"):
            launch(digits_index, port=port, connect=PixelEmbedder)


def test_no_index_no_page(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no index here"):
        launch(tmp_path, port=0, connect=PixelEmbedder)


def ask(url: str, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=300)
    data = None if body is None else json.dumps(body)
    if data is not None:
        headers["Content-Type"] = "application/json"
    try:
        connection.request(method, path, data, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def test_only_this_machines_names_are_answered(digits_page: str) -> None:
    assert ask(digits_page, "GET", "/")[0] == 200
    assert ask(digits_page, "GET", "/", Host="evil.example")[0] == 400


@pytest.mark.parametrize("path", ["/etc/hostname", "index.json", "http://198.51.100.7/a.png"])
def test_a_request_that_names_a_path_or_an_address_gets_nothing(
    digits_page: str, path: str
) -> None:
    config = json.loads(ask(digits_page, "GET", "/config")[1])
    jobs = [one for one in config["dependencies"] if one["targets"][0][1] == "upload"]
    assert jobs
    for job in jobs:
        upload, visitor = job["targets"][0][0], f"visitor-{len(path)}-{job['id']}"
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        data = [file if one == upload else None for one in job["inputs"]]
        body = {"data": data, "fn_index": job["id"], "session_hash": visitor}
        assert ask(digits_page, "POST", "/gradio_api/queue/join", body)[0] == 200
        _, stream = ask(digits_page, "GET", f"/gradio_api/queue/data?session_hash={visitor}")
        [last] = [line for line in stream.splitlines() if "process_completed" in line]
        assert '"success":false' in last
        assert ("no addresses" if path.startswith("http") else "not uploaded") in last
    assert ask(digits_page, "GET", f"/gradio_api/file={path}")[0] in (403, 404)
