"""File locks, and the word for a place that has none."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jepack.disk import UNKNOWN_CALL, telling
from jepack.errors import ArtifactError, ConfigError


class NoLocksError(ArtifactError):
    """The file system of a folder has no file locks."""


@contextmanager
def alone(path: Path, mend: str) -> Iterator[None]:
    """Hold the lock file `path`; another process or thread waits.

    `mend` says how to choose another folder. Raises NoLocksError where there are no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        lock(stream.fileno(), fcntl.LOCK_EX, path, mend)
        yield


@contextmanager
def only_one(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file `path`, which goes at the end; ConfigError `busy` where another holds it.

    Where there are no locks nobody is kept out.
    """
    with telling(path.parent, folder=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("w")
    with stream:
        try:
            with suppress(NoLocksError):
                lock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, path, "")
        except BlockingIOError:
            raise ConfigError(busy) from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def lock(descriptor: int, operation: int, path: Path, mend: str) -> None:
    """flock(2) until it is had. Raises NoLocksError where there are no locks."""
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        if error.errno not in UNKNOWN_CALL | {errno.ENOLCK}:
            raise
        raise NoLocksError(
            f"{path.parent}: its file system has no file locks ({error.strerror}), and without them two "
            f"commands could spoil each other's files. {mend}"
        ) from error


def is_locked(path: Path) -> bool:
    """Whether another holds the lock file, or that cannot be told."""
    try:
        # To write, as NFS wants it for a lock of one's own; another user's file can only be read.
        with path.open("r+" if os.access(path, os.W_OK) else "r") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
