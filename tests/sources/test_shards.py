"""Shards as people pack them: nothing is lost without a word, and nothing wrong is read."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import shutil
import tarfile
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jepack.decoding import decode
from jepack.errors import DataError, SourceError
from jepack.sources import fetching, find_images


def png(level: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((6, 6), level, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def shard(path: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def read(data: Any, notes: list[str] | None = None) -> list[tuple[int, str | None]]:
    """(grey level, label) of each image."""
    files = find_images(data, parts=True, notes=notes)
    return [(int(decode(file.read(), 1)[0, 0, 0]), file.label) for file in files]


def test_dots_in_names_lose_no_picture_and_no_label(tmp_path: Path) -> None:
    members = []
    for number in range(6):
        name = f"2024.05.03_{number:04d}"
        members += [(f"{name}.png", png(number)), (f"{name}.cls", str(number % 2).encode())]
    notes: list[str] = []
    found = read(shard(tmp_path / "a.tar", *members), notes)
    assert found == [(number, str(number % 2)) for number in range(6)]
    assert notes == []


def test_pictures_of_one_sample_are_one_image_and_the_others_are_told(tmp_path: Path) -> None:
    members = []
    for number in range(3):
        members += [
            (f"{number}.mask.png", png(200)), (f"{number}.png", png(number)), (f"{number}.cls", b"x"),
        ]  # fmt: skip
    notes: list[str] = []
    assert read(shard(tmp_path / "a.tar", *members), notes) == [(n, "x") for n in range(3)]
    assert (
        "3 pictures belong to another picture of their sample and are left out: 0.mask" in notes[0]
    )
    notes.clear()
    pairs = [(f"{n}.{side}.png", png(n)) for n in range(3) for side in ("left", "right")]
    assert read(shard(tmp_path / "b.tar", *pairs), notes) == [(n, None) for n in range(3)]
    assert "0.right.png, 1.right.png, 2.right.png" in notes[0]
    dotted = [(f"1.5mm.{n}{part}.png", png(n)) for n in range(3) for part in ("", ".mask")]
    assert read(shard(tmp_path / "c.tar", *dotted)) == [(n, None) for n in range(3)]


def test_names_that_come_again_are_images_of_their_own(tmp_path: Path) -> None:
    members = [(f"{n % 2}.{end}", data) for n in range(4) for end, data in
               (("png", png(n)), ("cls", str(n).encode()))]  # fmt: skip
    notes: list[str] = []
    assert read(shard(tmp_path / "a.tar", *members), notes) == [(n, str(n)) for n in range(4)]
    assert "2 names come again, each is an image of its own: 0.png, 1.png" in notes[0]


def test_captions_are_no_labels_and_a_class_in_json_is_one(tmp_path: Path) -> None:
    members = [
        ("0.png", png(0)), ("0.txt", b"a cat on a mat"),
        ("1.png", png(1)), ("1.json", json.dumps({"class": "none", "caption": "a dog"}).encode()),
        ("2.png", png(2)), ("2.json", b"[1]"), ("2.cls", b""),
    ]  # fmt: skip
    notes: list[str] = []
    assert read(shard(tmp_path / "a.tar", *members), notes) == [(0, None), (1, "none"), (2, None)]
    assert "1 .txt files are captions, not labels (those are .cls, or .json)" in notes[0]


@pytest.mark.parametrize(
    ("kind", "name"),
    [("gzip", "a.tar"), ("gzip", "a.tar.gz"), ("gzip", "a.TGZ"), ("bzip2", "a.tbz2"), ("xz", "a.tar.xz"),
     ("zstd", "a.tar.zst"), ("zip", "a.zip")],
)  # fmt: skip
def test_a_packed_shard_is_refused_in_one_sentence_by_every_way_in(
    tmp_path: Path, kind: str, name: str
) -> None:
    content = shard(tmp_path / "whole", ("0.png", png(0))).read_bytes()
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("0.png", png(0))
    elif kind == "zstd":
        (tmp_path / name).write_bytes(b"\x28\xb5\x2f\xfd" + content)
    else:
        packer = {"gzip": gzip, "bzip2": bz2, "xz": lzma}[kind]
        (tmp_path / name).write_bytes(packer.compress(content))  # type: ignore[attr-defined]
    words = f"packed with {kind}; the images of a shard are read by place.* Unpack it once"
    numbered = shutil.copy(tmp_path / name, tmp_path / f"0{name}")
    for data, parts in ((tmp_path / name, True), (f"{tmp_path}/{{0..0}}{name}", True)):
        with pytest.raises(DataError, match=words):
            find_images(data, parts=parts)
    if name != "a.tar":
        with pytest.raises(DataError, match=words):
            find_images(tmp_path / name)
        with pytest.raises(DataError, match="called packed; the images of a shard"):  # unfetched
            find_images(f"http://127.0.0.1:9/{name}?key=1", parts=True)
        (tmp_path / "b.png").write_bytes(png(3))
        notes: list[str] = []
        assert read(tmp_path, notes) == [(3, None)]
        assert any(f"{numbered} and 1 more: passed over; the images of a shard" in n for n in notes)


def test_a_plain_tar_that_is_called_packed_says_so(tmp_path: Path) -> None:
    shard(tmp_path / "a.tgz", ("0.png", png(0)))
    with pytest.raises(DataError, match="called packed, but it is not; .* name it .tar"):
        find_images(tmp_path / "a.tgz", parts=True)


def test_a_shard_in_a_split_folder_keeps_its_split_and_its_columns(tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        shard(
            tmp_path / part / "0.tar", ("0.png", png(0)), ("0.json", b'{"label": "a", "site": 3}')
        )
    files = find_images(tmp_path, parts=True)
    assert [(f.label, f.columns) for f in files] == [
        ("a", {"split": "train", "site": "3"}), ("a", {"split": "val", "site": "3"}),
    ]  # fmt: skip


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize("old_record", [False, True])
def test_a_shard_that_changed_at_its_address_is_told_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old_record: bool
) -> None:
    monkeypatch.setenv("JEPACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetching, "PAUSES_S", ())
    there = tmp_path / "there"
    there.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(there))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a.tar"
        shard(there / "a.tar", ("0.png", png(1)), ("1.png", png(2)))
        files = find_images(url, parts=True)
        place, record = fetching.place_of(url), fetching.place_of(url).with_suffix(".json")
        place.unlink()  # to make room
        assert decode(files[1].read(), 1)[0, 0, 0] == 2  # fetched again
        place.unlink()
        if old_record:  # of a version that kept the size alone
            told = json.loads(record.read_text())
            del told["sha256"]
            record.write_text(json.dumps(told))
            shard(there / "a.tar", *((f"{n}.png", png(n)) for n in range(20)))
        else:  # of the very same size
            shard(there / "a.tar", ("1.png", png(2)), ("0.png", png(1)))
        with pytest.raises(SourceError, match=rf"a\.tar: changed since .*Remove {record}"):
            files[0].read()
        assert not place.exists()
        record.unlink()
        assert len(find_images(url, parts=True)) == (20 if old_record else 2)
        record.write_text("[")  # damaged: the list is made anew
        assert len(find_images(url, parts=True)) == (20 if old_record else 2)
        server.shutdown()


def test_a_shard_cut_short_after_it_was_listed_gives_no_rubbish(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", ("0.png", png(1)), ("1.png", png(2)))
    last = find_images(path, parts=True)[1]
    path.write_bytes(path.read_bytes()[:1600])
    with pytest.raises(SourceError, match="shorter than when it was listed"):
        last.read()


# Damage


def three(path: Path, form: int = tarfile.PAX_FORMAT, **options: Any) -> Path:
    """Images 0, 1 and 2, the last with a name too long for one header."""
    with tarfile.open(path, "w", format=form, **options) as tar:
        for number, name in enumerate(("0", "1", "2" * 120)):
            info = tarfile.TarInfo(f"{name}.png")
            info.size = len(png(number))
            tar.addfile(info, io.BytesIO(png(number)))
    return path


def test_shards_written_one_after_the_other_are_read_to_the_last(tmp_path: Path) -> None:
    parts = [
        three(tmp_path / "a", tarfile.GNU_FORMAT),
        three(tmp_path / "b", pax_headers={"comment": "of the whole tar"}),
        shard(tmp_path / "c", ("9.png", png(9))),
    ]
    (tmp_path / "all.tar").write_bytes(b"".join(part.read_bytes() for part in parts))
    found = read(tmp_path / "all.tar")
    assert [level for level, _ in found] == [0, 1, 2, 0, 1, 2, 9]


def test_a_damaged_or_cut_header_is_one_sentence(tmp_path: Path) -> None:
    whole = three(tmp_path / "whole", tarfile.GNU_FORMAT).read_bytes()
    second = 1024  # a header and one block of data come before it
    assert whole[second : second + 5] == b"1.png"
    torn = bytearray(whole)
    torn[second + 10] = 7
    for content in (bytes(torn), whole[: second + 100], whole + b"not a header", b"no tar" * 999):
        (tmp_path / "a.tar").write_bytes(content)
        with pytest.raises(DataError, match="a.tar: not a readable shard .*damaged or cut"):
            find_images(tmp_path / "a.tar", parts=True)
    (tmp_path / "a.tar").write_bytes(whole[:second])  # without an end, as some writers leave it
    assert read(tmp_path / "a.tar") == [(0, None)]


@pytest.mark.parametrize(
    ("aside", "picture"), [("mask", "image"), ("gt", "rgb"), ("seg_map", "photo"), ("label", "x.y")]
)
def test_a_mask_that_comes_first_is_not_the_image(tmp_path: Path, aside: str, picture: str) -> None:
    members = [
        (f"{n}.{name}.png", png(level))
        for n in range(2)
        for name, level in ((aside, 200), (picture, n))
    ]
    notes: list[str] = []
    for some in (members, members[:2]):
        notes.clear()
        found = read(shard(tmp_path / "a.tar", *some), notes)
        assert found == [(n, None) for n in range(len(some) // 2)]
        assert f"left out: 0.{aside}.png" in notes[0]
        assert f"the images are 0.{picture}.png" in notes[0]
    shard(tmp_path / "b.tar", ("0.mask.png", png(1)), ("1.mask.png", png(2)))
    assert read(tmp_path / "b.tar") == [(1, None), (2, None)]
