"""What names a person's machine and must not be published: its folders, in JSON, text and archives."""

from __future__ import annotations

import mmap
import os
import re
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jepack import stages

# The start of an absolute path: POSIX, home, Windows drive, network share or file URL. A web address
# has no such start, since two slashes follow each other there.
PATH_START = re.compile(
    r"""(?:^|(?<=[\s"'`(=,:\[]))(?:file:///?|[A-Za-z]:[\\/]|\\\\|~?/)(?=[^\s/\\])"""
)
# Folders that stand on every machine and tell nothing about this one.
COMMON = {"/", "/usr", "/usr/local", "/opt", "/tmp", "/var", "/home", "/mnt", "/srv", "/etc"}


def without_paths(value: Any) -> Any:
    """A JSON value with every absolute path in its strings cut down to its last name."""
    if isinstance(value, dict):
        return {shorten(key): without_paths(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(item) for item in value]
    return shorten(value) if isinstance(value, str) else value


def shorten(text: str) -> str:
    """`512 images of /home/ann/photos` -> `512 images of photos`.

    A path may hold spaces, so nobody can tell where it ends: everything up to the last slash of the
    text goes. That may drop words; it never leaves a folder.
    """
    start = PATH_START.search(text)
    if start is None:
        return text
    rest = text[start.start() :].rstrip("/\\")
    return text[: start.start()] + re.split(r"[/\\]", rest)[-1]


def machine_folders(*known: Path | str) -> list[str]:
    """Folders whose names give this machine away: the home, this package's, Python's, and `known`."""
    folders = {str(Path.home()), str(stages.PACKAGE.parent), sys.prefix}
    for folder in known:
        folders |= {str(folder), str(Path(folder).resolve())}
    return sorted(
        folder for folder in folders if Path(folder).is_absolute() and folder not in COMMON
    )


def folders_in(content: Path | bytes, folders: Iterable[str]) -> list[str]:
    """Which of the folders a file names anywhere in its bytes, packed records of archives included."""
    if isinstance(content, bytes):
        return [folder for folder in folders if pattern(folder).search(content)]
    if content.stat().st_size == 0:
        return []
    folders = list(folders)
    with (
        content.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        named = {folder for folder in folders if pattern(folder).search(data)}
    if zipfile.is_zipfile(content):
        with zipfile.ZipFile(content) as archive:
            for entry in archive.infolist():
                if entry.compress_type != zipfile.ZIP_STORED:
                    named |= set(folders_in(archive.read(entry), folders))
    return sorted(named)


def pattern(folder: str) -> re.Pattern[bytes]:
    """The folder as a whole name. A short one like /data also needs a start: `model/data/0` is not it."""
    text = re.escape(os.fsencode(folder)) + rb"(?![\w.\-])"
    return re.compile(text if folder.count("/") > 1 else rb"(?<![\w.\-/])" + text)


def strip_torchscript(source: Path, target: Path) -> bool:
    """Copy a TorchScript archive without its debug records, which hold source paths; False if none.

    `torch.jit.load` does without them: only error messages lose their line numbers.
    """
    with zipfile.ZipFile(source) as old:
        names = [entry for entry in old.infolist() if entry.filename.endswith(".debug_pkl")]
        if not names:
            return False
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
            for entry in old.infolist():
                if entry in names:
                    continue
                # A fixed date: the same graph gives the same bytes.
                copy = zipfile.ZipInfo(entry.filename, date_time=(1980, 1, 1, 0, 0, 0))
                copy.extra = padding(entry.filename, new)
                with old.open(entry) as read, new.open(copy, "w", force_zip64=False) as write:
                    while block := read.read(1 << 20):
                        write.write(block)
    return True


def padding(name: str, archive: zipfile.ZipFile) -> bytes:
    """An extra field that starts the record's data at a multiple of 64 bytes, as torch writes it."""
    assert archive.fp is not None
    header = archive.fp.tell() + 30 + len(name.encode()) + 4
    room = -header % 64
    return b"FB" + room.to_bytes(2, "little") + b"Z" * room
