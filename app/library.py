"""The open index of a page, and the order its images are browsed in."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from app import scale
from app.columns import Column
from app.engines import folder_of, open_index, stamp_of
from app.lance import LanceStore
from app.scale import Scale
from app.store import IndexInfo, Row, VectorStore
from app.work import Work
from jepack.errors import ArtifactError, JepackError


class Library:
    """An index that may be built again while the page is open; every question sees the newest."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = folder_of(folder)
        self._where = folder
        self._lock = threading.Lock()
        self.measuring: Work | None = None  # of an index without a copy or a scale
        self._columns: tuple[VectorStore, dict[Column, list[tuple[str, int]]]] | None = None
        self._open(stamp_of(folder))

    def _open(self, stamp: object | None) -> None:
        self._store = open_index(self._where)
        # The whole catalogue, without vectors and pictures: about 100 bytes an image.
        self._catalogue = [(row.id, row.label) for part in self._store.scan() for row in part]
        self._seen = stamp
        self._scale = scale.read(self.folder, len(self._catalogue))
        if self.measuring is not None:
            self.measuring.cancel()
            self.measuring = None
        own = self._store
        if self._catalogue and isinstance(own, LanceStore) and not own.has_copy:
            self.measuring = Work("Copying this index's vectors, to search them fast", self._copy)
        elif self._lacks_scale:
            self.measuring = Work("Measuring this index's own distances", self._measure)

    @property
    def _lacks_scale(self) -> bool:
        return self._scale is None and len(self._catalogue) >= scale.LEAST

    def _copy(self, work: Work) -> None:
        """In a thread of its own: an older index is of use before its vectors are copied."""
        store = self._store
        with suppress(JepackError, OSError):  # a folder that this user may not write to
            if isinstance(store, LanceStore):
                store.make_copy(work.advance)
        if self._lacks_scale:
            work.title = "Measuring this index's own distances"
            self._measure(work)

    def _measure(self, work: Work) -> None:
        """Likewise."""
        store = self._store
        found = scale.measure(store, work.advance)
        with self._lock:
            if store is not self._store:
                return
            self._scale = found
        with suppress(JepackError, OSError):  # a folder that this user may not write to
            scale.write(self.folder, found)

    @property
    def scale(self) -> Scale | None:
        """What the distances mean; None where that is not known yet, or there are too few images."""
        with self._lock:
            return self._scale

    @property
    def store(self) -> VectorStore:
        with self._lock:
            stamp = stamp_of(self._where)
            if stamp is None:
                raise ArtifactError(
                    f"{self.folder}: the index is gone. Put it back, or build it again: jepack index "
                    f"{self._store.info.data} --out {self.folder}"
                )
            if stamp != self._seen:
                self._open(stamp)
            return self._store

    @property
    def info(self) -> IndexInfo:
        """What the index last said about itself, also when it has gone since."""
        return self._store.info

    @property
    def catalogue(self) -> list[tuple[str, str | None]]:
        """(id, label) of every image, in stored order; of the index that `store` gave last."""
        return self._catalogue

    def labels(self) -> dict[str, int]:
        """Images per label, by name; empty when the images have none."""
        counts = Counter(label for _, label in self._catalogue if label is not None)
        return dict(sorted(counts.items()))

    def columns(self) -> dict[Column, list[tuple[str, int]]]:
        """The manifest's columns; of each category its values and how many images have them."""
        store = self.store
        if self._columns is None or self._columns[0] is not store:
            told = {
                one: store.values(one.name) if one.kind == "category" else []
                for one in store.info.columns
            }
            self._columns = store, told
        return self._columns[1]

    def page(
        self,
        number: int,
        size: int,
        *,
        label: str = "",
        seed: int = 0,
        among: Collection[str] = (),
        called: str = "",
    ) -> tuple[list[Row], int]:
        """Rows of one page of a mixed order, and the number of pages; `number` wraps around.

        Mixed, because stored order shows one class folder after the other. `among`: of these ids alone,
        where there are any. `called`: of those alone whose path holds all of these words, in any case (a
        word with * or ? is a pattern of the file's name), in the order of their names.
        """
        store, kept, words = self.store, set(among), called.casefold().split()
        names = [
            name
            for name, own in self._catalogue
            if (not label or own == label)
            and (not kept or name in kept)
            and (not words or is_called(name, words))
        ]
        if words:
            names.sort()
        else:
            random.Random(seed).shuffle(names)
        pages = max(1, -(-len(names) // size))
        start = number % pages * size
        return store.get(names[start : start + size]), pages


def is_called(name: str, words: Sequence[str]) -> bool:
    """Whether a path holds all of `words`, which are casefolded."""
    path = name.casefold()
    last = path.rpartition("/")[2]
    return all(
        fnmatchcase(last, word) if "*" in word or "?" in word else word in path for word in words
    )
