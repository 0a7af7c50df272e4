"""Decoding many images where one may end the process: what was being decoded is known to the next command.

Images are decoded on threads, so a fault in a codec, or a system that kills for memory, ends the command.
Below cache_root()/crashes a running command keeps a file `….now` with the images of its block, locked; one
that nobody holds was left behind by a process that ended, and becomes `….left`. Whichever command meets its
images next decodes them in a process of its own and strikes off those that are sound. Where the folder cannot
be written or has no file locks, nothing is remembered.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import IO, TypeVar

from jepack.errors import ArtifactError
from jepack.files import cache_root, write_bytes
from jepack.machine import is_locked
from jepack.sources.image import ImageFile

BLOCK = 64  # images decoded ahead of who uses them
ENDED = "its decoder ended the process that ran it (a crash, or its memory)"

Result = TypeVar("Result")


def in_blocks(
    files: Sequence[ImageFile],
    work: Callable[[ImageFile], Result],
    ended: Callable[[ImageFile], Result],
    workers: int,
) -> Iterator[list[Result]]:
    """`work` of every file, on threads, in order and a block at a time.

    `work` can be pickled: it runs in a process of its own for images at which an earlier command ended.
    `ended` stands in for it where that process ends as well.
    """
    folder = cache_root() / "crashes"
    left = Left(folder)
    with ThreadPoolExecutor(max(1, workers)) as pool, noting(folder) as note, Apart() as apart:
        for start in range(0, len(files), BLOCK):
            block = files[start : start + BLOCK]
            keys = [key_of(file) for file in block]
            found: dict[int, Result] = {}
            for n in [n for n, key in enumerate(keys) if key in left]:
                try:
                    found[n] = apart.run(work, block[n])
                    left.strike(keys[n])
                except BrokenProcessPool:
                    found[n] = ended(block[n])
            others = [n for n in range(len(block)) if n not in found]
            note([keys[n] for n in others])
            found |= zip(others, pool.map(work, [block[n] for n in others]), strict=True)
            yield [found[n] for n in range(len(block))]


def key_of(file: ImageFile) -> str:
    """An image as it is now, in one line: one that was replaced is another."""
    try:
        state = file.path.stat()
        size, changed = state.st_size, state.st_mtime_ns
    except OSError:
        size, changed = 0, 0
    return json.dumps([os.path.abspath(file.path), file.part, size, changed])


class Apart:
    """A process of its own for work that may end it; another one after that."""

    def __init__(self) -> None:
        self.pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def run(self, work: Callable[[ImageFile], Result], file: ImageFile) -> Result:
        """Raises BrokenProcessPool where the process ends."""
        # Spawned: a fork of a process with threads may hang.
        self.pool = self.pool or ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        try:
            return self.pool.submit(work, file).result()
        except BrokenProcessPool:
            self.pool = None
            raise


@contextmanager
def noting(folder: Path) -> Iterator[Callable[[Sequence[str]], None]]:
    """Gives a function that notes what is decoded from now on. At the end, also by an error or Ctrl-C,
    nothing is left of it; it stays where the process is killed."""
    stream: IO[str] | None = None
    name = ""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(suffix=".now", dir=folder)
        stream = os.fdopen(descriptor, "w")
        fcntl.flock(stream, fcntl.LOCK_EX)

    def note(keys: Sequence[str]) -> None:
        if stream is not None:
            with suppress(OSError):
                stream.seek(0)
                stream.truncate()
                stream.writelines(f"{key}\n" for key in keys)
                stream.flush()

    try:
        yield note
    finally:
        if stream is not None:
            with suppress(OSError):
                os.unlink(name)
            with suppress(OSError):
                stream.close()


class Left:
    """The images at which earlier processes ended, or some of their blocks: keys."""

    def __init__(self, folder: Path) -> None:
        self.lists: dict[Path, set[str]] = {}
        with suppress(OSError):
            for path in sorted(folder.glob("*.now")):
                if not is_locked(path):
                    os.replace(path, path.with_suffix(".left"))
        for path in sorted(folder.glob("*.left")):
            with suppress(OSError, ValueError):
                self.lists[path] = set(path.read_text().splitlines())

    def __contains__(self, key: str) -> bool:
        return any(key in keys for keys in self.lists.values())

    def strike(self, key: str) -> None:
        """It is sound."""
        for path, keys in self.lists.items():
            if key in keys:
                keys.remove(key)
                with suppress(OSError, ArtifactError):
                    if keys:
                        write_bytes(path, "".join(f"{key}\n" for key in sorted(keys)).encode())
                    else:
                        path.unlink()
