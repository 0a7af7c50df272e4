"""What a disk says, told with its mend; and whether it will take what is to be written."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jepack.errors import ArtifactError

# What a file system says that does not know a call: NFS, exFAT, FUSE, SMB and overlays differ in the word.
UNKNOWN_CALL = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM}


# What it says of a path that leads through a file, ends at a folder, or is too long.
MISPLACED = {
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOTEMPTY,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}

ELSEWHERE = "Choose another place."


@contextmanager
def passing_over(numbers: set[int]) -> Iterator[None]:
    """Go on where a call fails with one of these errors; a full or failing disk is not among them."""
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise


@contextmanager
def telling(path: Path, mend: str = ELSEWHERE, *, folder: bool = False) -> Iterator[None]:
    """What the disk says of `path` inside the block, as `disk_error` tells it."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, path, mend, folder=folder) from error


def check_writable(path: Path, mend: str = ELSEWHERE, *, replaced: bool = False) -> None:
    """ArtifactError where `path` could not be written: known before the work whose result goes there.

    `replaced`: as a whole, by `new_folder`, which writes beside it first.
    """
    there = path.absolute().parent if replaced else path.absolute()
    while not os.path.lexists(there):
        there = there.parent
    if there in path.absolute().parents and not there.is_dir():
        raise ArtifactError(f"{path}: cannot be written, {there} is no folder. {mend}")
    place = there if there.is_dir() else there.parent  # a file is replaced, not written into
    if not os.access(place, os.W_OK | os.X_OK):
        raise ArtifactError(f"{path}: cannot be written, {place} does not allow it. {mend}")


def disk_error(
    error: OSError, path: Path, mend: str = ELSEWHERE, *, folder: bool = False
) -> OSError | ArtifactError:
    """A full disk, a read-only place or one that lacks a call, told with its mend; else as it was.

    `path` is the file (or `folder`) that could not be made.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free_mb = shutil.disk_usage(existing_parent(path)).free / 1e6
        return ArtifactError(
            f"{path}: no space left on the disk ({free_mb:.0f} MB free). Nothing already there was "
            f"changed. Free some space. {mend}"
        )
    if error.errno in MISPLACED:
        reason = obstacle(path, folder=folder) or error.strerror
        return ArtifactError(f"{path}: cannot be written ({reason}). {mend}")
    if error.errno in (errno.EACCES, errno.EROFS):
        return ArtifactError(f"{path}: cannot be written ({error.strerror}). {mend}")
    if error.errno in UNKNOWN_CALL | {errno.ENOLCK}:
        return ArtifactError(
            f"{path}: its file system cannot do what is needed ({error}). Nothing already there was "
            f"changed. {mend} A local disk can."
        )
    return error


def obstacle(target: Path, *, folder: bool) -> str | None:
    """Why no file (or no `folder`) can be made at `target`; None where nothing stands in the way.

    Writes nothing. What only the attempt can show, such as a full disk, is for `disk_error`.
    """
    try:
        os.stat(target)
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        pass
    except OSError as error:
        return error.strerror
    if target.is_dir() and not folder:
        return "a folder has that name"
    if folder and os.path.lexists(target) and not target.is_dir():
        return "a file has that name, and a folder is needed"
    parent = target.absolute().parent
    while not os.path.lexists(parent):
        parent = parent.parent
    if not parent.is_dir():
        return f"{parent} is no folder"
    # A folder that is there is written into by some commands, and replaced beside itself by others.
    places = [parent, target] if target.is_dir() else [parent]
    if not any(os.access(place, os.W_OK | os.X_OK) for place in places):
        return f"{parent} may not be written into"
    return None


def existing_parent(path: Path) -> Path:
    """The nearest folder above `path` that exists."""
    path = path.absolute()
    while not path.is_dir():
        path = path.parent
    return path


def system_error(text: str) -> int:
    """The errno that a library written in Rust tells in its own error's text, 0 without one."""
    told = re.search(r"\(os error (\d+)\)", text)
    return int(told.group(1)) if told else 0
