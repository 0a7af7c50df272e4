"""The images still to do, listed once into a temporary file: counted before the work, read in frames."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from jepack.sources import ImageFile
from serving.bulk.rows import Keys, key_of

BLOCK = 1024  # images pickled together


@dataclass(frozen=True)
class Listed:
    """Some images of a listing, and the names that their rows have."""

    files: list[ImageFile]
    names: list[str]


class Spool:
    """Those of `files` whose names are neither `done` nor `refused`: some 150 bytes each, in a nameless file.

    `folder` is where that file lies, None = the system's own place. `repeats` says that the listing may name
    an image twice, which is then done once; that takes 100 bytes an image in memory.
    """

    def __init__(
        self,
        files: Iterable[ImageFile],
        base: Path,
        done: Keys,
        folder: Path | None = None,
        *,
        refused: Keys | None = None,
        repeats: bool = False,
    ) -> None:
        refused = refused or Keys()
        self.there = 0  # images that have their row
        self.refused = 0  # images that were refused before
        self.left = 0  # images that are neither
        self.again = 0  # images that were named before
        self._blocks = 0
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        seen: set[bytes] = set()
        files = iter(files)
        while block := list(islice(files, BLOCK)):
            names = [file.name_below(base) for file in block]
            kept = Listed([], [])
            held = zip(block, names, done.hold(names), refused.hold(names), strict=True)
            for file, name, there, bad in held:
                if repeats and (key := key_of(name)) in seen:
                    self.again += 1
                    continue
                if repeats:
                    seen.add(key)
                if there or bad:
                    self.there += there
                    self.refused += not there
                    continue
                kept.files.append(file)
                kept.names.append(name)
            if kept.files:
                pickle.dump(kept, self._file)
                self._blocks += 1
                self.left += len(kept.files)

    @property
    def total(self) -> int:
        """Images of the listing."""
        return self.there + self.refused + self.left

    def frames(self, size: int) -> Iterator[Listed]:
        """Those that are left, `size` at a time."""
        self._file.seek(0)
        waiting = Listed([], [])
        for _ in range(self._blocks):
            block: Listed = pickle.load(self._file)
            waiting = Listed(waiting.files + block.files, waiting.names + block.names)
            while len(waiting.files) >= size:
                yield Listed(waiting.files[:size], waiting.names[:size])
                waiting = Listed(waiting.files[size:], waiting.names[size:])
        if waiting.files:
            yield waiting

    def close(self) -> None:
        self._file.close()
