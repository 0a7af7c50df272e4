"""The open index of a page, and the order its images are browsed in."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from app.lance import LanceStore, open_index
from app.store import METADATA, Row


class Library:
    """An index folder that may be rebuilt while the page is open; every question sees the newest."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._lock = threading.Lock()
        self._open(self._stamp())

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.folder / METADATA)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _open(self, stamp: tuple[int, int] | None) -> None:
        self._store = open_index(self.folder)
        # The whole catalogue, without vectors and pictures: about 100 bytes an image.
        self._catalogue = [(row.id, row.label) for part in self._store.scan() for row in part]
        self._seen = stamp

    @property
    def store(self) -> LanceStore:
        with self._lock:
            stamp = self._stamp()
            if stamp != self._seen:
                self._open(stamp)
            return self._store

    def labels(self) -> dict[str, int]:
        """Images per label, by name; empty when the images have none."""
        counts = Counter(label for _, label in self._catalogue if label is not None)
        return dict(sorted(counts.items()))

    def page(
        self,
        number: int,
        size: int,
        *,
        label: str = "",
        seed: int = 0,
        among: Collection[str] = (),
    ) -> tuple[list[Row], int]:
        """Rows of one page of a mixed order, and the number of pages; `number` wraps around.

        Mixed, because stored order shows one class folder after the other. `among`: of these ids alone,
        where there are any.
        """
        store, kept = self.store, set(among)
        names = [
            name
            for name, own in self._catalogue
            if (not label or own == label) and (not kept or name in kept)
        ]
        random.Random(seed).shuffle(names)
        pages = max(1, -(-len(names) // size))
        start = number % pages * size
        return store.get(names[start : start + size]), pages
