"""Replacing a folder: whole before, whole after, and never away in between."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
from safetensors import SafetensorError

from jepack import disk, files
from jepack.errors import ArtifactError


def fill(folder: Path, text: str) -> None:
    with files.new_folder(folder) as stage:
        (stage / "a.txt").write_text(text)


@pytest.fixture(params=["exchange", "fallback"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "fallback":
        monkeypatch.setattr(files, "exchange", lambda one, other: False)
    return str(request.param)


def test_a_folder_is_replaced_and_nothing_is_left_beside_it(way: str, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    for text in ("one", "two"):
        fill(target, text)
        assert (target / "a.txt").read_text() == text
    assert os.listdir(tmp_path) == ["bundle"]


def test_a_writer_that_fails_leaves_the_folder_as_it_was(way: str, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    fill(target, "one")

    def fail() -> None:
        with files.new_folder(target) as stage:
            (stage / "a.txt").write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (target / "a.txt").read_text() == "one"
    assert os.listdir(tmp_path) == ["bundle"]


def test_a_link_to_a_folder_is_replaced_and_the_folder_it_named_is_kept(
    way: str, tmp_path: Path
) -> None:
    fill(tmp_path / "first", "one")
    (tmp_path / "latest").symlink_to("first")
    fill(tmp_path / "latest", "two")
    assert (tmp_path / "latest" / "a.txt").read_text() == "two"
    assert (tmp_path / "first" / "a.txt").read_text() == "one"
    assert sorted(os.listdir(tmp_path)) == ["first", "latest"]


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_a_reader_finds_the_folder_at_every_instant(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    fill(target, "0")
    (tmp_path / "probe").mkdir()
    if not files.exchange(target, tmp_path / "probe"):
        pytest.skip("this file system cannot exchange names")
    files.exchange(target, tmp_path / "probe")
    missing, reads, done = [], [], threading.Event()

    def read() -> None:
        while not done.is_set():
            reads.append(1)
            if not os.path.isdir(target):
                missing.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    number = 0
    while number < 100 or len(reads) < 100:  # however seldom a busy machine lets it read
        fill(target, str(number))
        number += 1
    done.set()
    reader.join()
    assert not missing


def test_a_place_is_judged_before_the_work_as_it_is_after(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("")
    disk.check_writable(tmp_path / "a" / "b")
    disk.check_writable(taken)  # a file is replaced
    disk.check_writable(tmp_path, replaced=True)
    for work in (
        lambda: disk.check_writable(taken / "a"),
        lambda: disk.check_writable(taken / "a", replaced=True),
        lambda: files.write_bytes(taken / "a", b""),
        lambda: fill(taken / "a", "one"),
    ):
        with pytest.raises(ArtifactError, match=r"cannot be written.*Choose another place"):
            work()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ArtifactError, match="does not allow it"):
        disk.check_writable(tmp_path / "a")


@pytest.mark.parametrize("full", [True, False])
def test_a_full_disk_under_safetensors_is_told_like_any(full: bool, tmp_path: Path) -> None:
    told = "I/O error: No space left on device (os error 28)" if full else "invalid dtype"
    target = tmp_path / "bundle"
    fill(target, "one")

    def write() -> None:
        with files.new_folder(target):
            raise SafetensorError(f"Error while serializing: {told}")

    error, words = (ArtifactError, "no space left") if full else (SafetensorError, "invalid dtype")
    with pytest.raises(error, match=words):
        write()
    assert (target / "a.txt").read_text() == "one"
    assert os.listdir(tmp_path) == ["bundle"]
