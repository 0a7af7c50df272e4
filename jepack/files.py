"""Writing that loses nothing: temporary name, fsync, rename."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jepack.disk import UNKNOWN_CALL, disk_error, passing_over, system_error, telling


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file, read in 1 MiB blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def canonical_json(value: Any) -> bytes:
    """The one byte string of a JSON value: sorted keys, no spaces. For hashing."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut, where its file system can promise that."""
    with passing_over(UNKNOWN_CALL | {errno.EACCES, errno.EISDIR, errno.EBADF}):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def fsync_file(path: Path) -> None:
    with path.open("rb") as stream:
        fsync(stream.fileno())


def fsync(descriptor: int) -> None:
    """Wait until an open file is on the disk, where its file system can promise that."""
    with passing_over(UNKNOWN_CALL):
        os.fsync(descriptor)


def set_mode(path: Path | str, mode: int) -> None:
    """Permissions, where the file system keeps any."""
    with passing_over(UNKNOWN_CALL):
        os.chmod(path, mode)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` with `data`; after a crash either the old or the new content is there."""
    with telling(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name[:60]}.", suffix=".tmp", dir=path.parent
        )
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            fsync(stream.fileno())
        set_mode(name, 0o644)
        os.replace(name, path)
    except BaseException as error:
        with suppress(FileNotFoundError):
            os.unlink(name)
        if isinstance(error, OSError):
            raise disk_error(error, path) from error
        raise
    fsync_folder(path.parent)


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """A temporary name beside `target`, for a file too large for memory; it takes that name when the block
    ends well. If the block raises, `target` is as it was."""
    with telling(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{target.name[:60]}.", suffix=".tmp", dir=target.parent
        )
        os.close(handle)
    stage = Path(name)
    try:
        yield stage
        fsync_file(stage)
        set_mode(stage, 0o644)
        os.replace(stage, target)
    except OSError as error:
        raise disk_error(error, target) from error
    finally:
        stage.unlink(missing_ok=True)
    fsync_folder(target.parent)


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def cache_root() -> Path:
    """Where decoded images and fetched files are kept: $JEPACK_CACHE, else the user's cache folder."""
    base = os.environ.get("JEPACK_CACHE") or os.environ.get("XDG_CACHE_HOME")
    return Path(base) / "jepack" if base else Path.home() / ".cache" / "jepack"


@contextmanager
def new_folder(target: Path, *, start_from: Path | None = None) -> Iterator[Path]:
    """A temporary folder that takes the name `target` when the block ends well.

    `start_from` fills it first with hard links (copies where links do not work), so unchanged
    large files cost nothing; replace files in it by name, never write into them. If the block
    raises, `target` is as it was.
    """
    target = target.absolute()
    with telling(target, folder=True):
        with suppress(FileNotFoundError):
            os.stat(target)  # a name that cannot be is told now, not after the block
        if os.path.lexists(target) and not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        target.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(
            tempfile.mkdtemp(prefix=f".{target.name[:60]}.", suffix=".tmp", dir=target.parent)
        )
    try:
        if start_from is not None:
            link_tree(start_from, stage)
        yield stage
        for path in sorted(stage.rglob("*")):
            if path.is_file():
                set_mode(path, 0o644)
                fsync_file(path)
            else:
                fsync_folder(path)
        fsync_folder(stage)
        set_mode(stage, 0o755)
        swap_folder(stage, target)
    except OSError as error:
        raise disk_error(error, target, folder=True) from error
    except Exception as error:  # safetensors has an error of its own for a full disk
        if type(error).__name__ != "SafetensorError" or not (number := system_error(str(error))):
            raise
        raise disk_error(OSError(number, os.strerror(number)), target) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def swap_folder(stage: Path, target: Path) -> None:
    """Rename `stage` to `target`; what was there is removed only after the new one is in place.

    On Linux the two names are exchanged at once, so `target` names a whole folder at every instant.
    Where the system or the file system cannot do that, the old folder steps aside first.
    """
    if not target.exists():
        os.replace(stage, target)
        fsync_folder(target.parent)
        return
    if exchange(stage, target):
        fsync_folder(target.parent)
        remove(stage)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
    old = aside / "was"
    os.replace(target, old)
    try:
        os.replace(stage, target)
    except BaseException:
        os.replace(old, target)
        raise
    fsync_folder(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step, renameat2(2); False where that cannot be done."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2  # Linux 3.15, glibc 2.28
    except (OSError, AttributeError, TypeError):
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    code = rename(here, os.fsencode(one), here, os.fsencode(other), ctypes.c_uint(swap))
    return bool(code == 0)


def remove(folder: Path) -> None:
    """A folder, or the link that stood for one."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def link_tree(source: Path, target: Path) -> None:
    """Every file of a folder in another, by `link_or_copy`; folders are made anew."""
    for place, _, names in os.walk(source, followlinks=True):
        below = target / Path(place).relative_to(source)
        below.mkdir(exist_ok=True)
        for name in names:
            link_or_copy(os.path.join(place, name), str(below / name))


def link_or_copy(source: str, target: str) -> str:
    """A hard link, or a copy where links do not work; permissions are the target's own there."""
    try:
        os.link(os.path.realpath(source), target)  # of a link: the file it leads to
    except OSError:
        shutil.copyfile(source, target)
    return target
