"""File systems without locks, hard links, permissions or folder syncs: NFS, exFAT, FUSE."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from jepack import files
from jepack.errors import ArtifactError
from jepack.sources import caches
from serving import environment

WORDS = [errno.ENOTSUP, errno.EPERM, errno.EINVAL, errno.ENOSYS]


def refusing(number: int) -> Any:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.fixture(params=WORDS, ids=errno.errorcode.get)
def poor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Every call that such file systems lack fails, with one of the words they use for it."""
    number = int(request.param)
    for name in ("link", "chmod", "fsync"):
        monkeypatch.setattr(os, name, refusing(number))
    monkeypatch.setattr(files, "exchange", lambda one, other: False)
    monkeypatch.setattr(fcntl, "flock", refusing(number))
    return number


def test_bundles_and_files_are_written_and_replaced_all_the_same(poor: int, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with files.new_folder(target) as stage:
        files.write_bytes(stage / "onnx" / "model.onnx", b"weights")
    with files.new_folder(target, start_from=target) as stage:
        assert (stage / "onnx" / "model.onnx").read_bytes() == b"weights"
        files.write_json(stage / "manifest.json", {"schema": 1})
    assert sorted(path.name for path in target.iterdir()) == ["manifest.json", "onnx"]
    assert os.listdir(tmp_path) == ["bundle"]


@pytest.mark.parametrize("number", [errno.ENOLCK, *WORDS], ids=errno.errorcode.get)
def test_where_there_are_no_locks_one_sentence_names_another_place(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(number))
    with (
        pytest.raises(ArtifactError, match="no file locks.*JEPACK_CACHE=/some/folder"),
        caches.alone(tmp_path / ".lock"),
    ):
        pytest.fail("held")
    with pytest.raises(ArtifactError, match="no file locks.*JEPACK_TRITON_VENV=/some/folder"):
        environment.ensure_server_environment(tmp_path / "venv")
    (tmp_path / "images").mkdir()
    assert caches.hold(tmp_path / "images") is not None  # what is there can be read


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
def test_a_disk_that_fails_or_is_full_is_not_passed_over(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write_bytes(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "fsync", refusing(number))
    with pytest.raises((OSError, ArtifactError)):
        files.write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EPERM, "no hard links"),
        (errno.EOPNOTSUPP, "no hard links"),
        (errno.ENOSPC, "no space"),
    ],
)
def test_where_the_vector_engine_cannot_write_the_old_index_stays_whole(
    number: int, told: str, tmp_path: Path, digits_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lancedb.db import LanceDBConnection

    from app.lance import building, open_index

    folder = tmp_path / "index"
    shutil.copytree(digits_index, folder)
    before = open_index(folder).count()

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError(
            "lance error: LanceError(IO): Generic LocalFileSystem error: Unable to rename file: "
            f"{os.strerror(number)} (os error {number}), io/commit.rs:1663:50"
        )

    monkeypatch.setattr(LanceDBConnection, "create_table", refuse)
    with (
        pytest.raises(ArtifactError, match=told) as caught,
        building(folder, open_index(folder).info),
    ):
        pytest.fail("written")
    assert len(str(caught.value).splitlines()) == 1
    assert open_index(folder).count() == before
    assert os.listdir(tmp_path) == ["index"]
