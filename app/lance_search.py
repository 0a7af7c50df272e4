"""Searching a LanceDB table: by the 8-bit copy of its vectors where there is one, else as the engine scans.

Both are exact: every vector is compared, and distances are those of the float32 vectors. The copy is of one
version of the table; after a write it is out of use until `make_copy` is called again. An index that was
built so (approximate.py) is searched approximately where no filter is set.

Q queries, D dimensions, C candidates of a query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from app import approximate
from app.scan import kept
from app.scan import search as scan
from app.scan.kept import Copy, Numbers
from app.store import METRIC, Hit, Row, Vectors

SAMPLE = 4096  # vectors that the steps of the codes are made from
BLOCK = 10_000
Progress = Callable[[float], None]


class Searcher:
    """Searches one table; `folder` is where its copy lies or will lie."""

    def __init__(self, folder: Path, table: Any) -> None:
        self.folder, self._table = folder, table
        self._copy: Copy | None = None
        self._version = -1  # of the copy

    def make_copy(self, on_progress: Progress = lambda share: None) -> None:
        """Make the copy of the table as it is now, where it is not there."""
        count, version = int(self._table.count_rows()), int(self._table.version)
        if count and self.copy() is None:
            sample = self._some(SAMPLE)[1]
            kept.write(self.folder, version, count, sample, self._blocks(), on_progress)
            self._version = -1

    def make_approximate(self, recall: float | None) -> None:
        """Try approximate search where that is wanted; `recall`: see `approximate.wanted`."""
        least = approximate.wanted(recall, int(self._table.count_rows()))
        version = int(self._table.version)
        if least is None or self.copy() is None:
            return

        def exact(queries: Vectors, k: int) -> list[list[str]]:
            return [[hit.row.id for hit in hits] for hits in self.search(queries, k)]

        ids, queries = self._some(approximate.ASKED)
        approximate.make(self.folder, self._table, ids, queries, exact, least)
        kept.adopt(self.folder, version, int(self._table.version))

    def copy(self) -> Copy | None:
        """Of the table as it is now; None where there is none."""
        version = int(self._table.version)
        if version != self._version:
            self._copy = kept.open_copy(self.folder, version, int(self._table.count_rows()))
            damaged = self._copy is None and kept.place(self.folder, version).is_dir()
            self._version = version if self._copy or damaged else -1
        return self._copy

    def search(
        self, vectors_QD: Vectors, k: int, where: str = "", thumbnails: bool = False
    ) -> list[list[Hit]]:
        """The k nearest of each; equal distances in the order of their ids."""
        how = approximate.read(self.folder, int(self._table.version))
        if how is not None and how.used and not where and k <= approximate.MOST_K:
            most = max(k, approximate.K + 1)  # fewer would be chosen among fewer, and less well
            asked = [approximate.ask(self._table, one, most, how.probes) for one in vectors_QD]
            return [self._hits(one, thumbnails)[:k] for one in asked]
        copy = self.copy()
        if copy is None:
            return [self._by_table(vector, k, where, thumbnails) for vector in vectors_QD]
        among = copy.places(self._numbers(where)) if where else None
        near = scan.search(copy, vectors_QD, k, among)
        rows = self._rows(copy, [one[0] for one in near if one is not None], thumbnails)
        found = []
        for vector, one in zip(vectors_QD, near, strict=True):
            if one is None:
                found.append(self._by_table(vector, k, where, thumbnails))
                continue
            pairs = zip(*(each.tolist() for each in one), strict=True)
            found.append(in_order([Hit(row=rows[at], distance=far) for at, far in pairs])[:k])
        return found

    def _by_table(self, vector: Vectors, k: int, where: str, thumbnails: bool) -> list[Hit]:
        asked = self._table.search(vector).distance_type(METRIC).bypass_vector_index().limit(k)
        if where:
            asked = asked.where(where, prefilter=True)
        return self._hits(asked, thumbnails)

    def _hits(self, asked: Any, thumbnails: bool) -> list[Hit]:
        columns = ["id", "label", "_distance"] + (["thumbnail"] if thumbnails else [])
        found = asked.select(columns).to_arrow().to_pylist()
        # Rounding leaves a twin at -1e-7.
        return in_order(
            [Hit(row=row_of(row), distance=max(0.0, row["_distance"])) for row in found]
        )

    def _rows(
        self, copy: Copy, places: Sequence[npt.NDArray[np.int64]], thumbnails: bool
    ) -> dict[int, Row]:
        """{place in the copy: row}."""
        wanted = np.unique(np.concatenate([*places, np.empty(0, np.int64)]))
        if not len(wanted):
            return {}
        columns = ["id", "label"] + (["thumbnail"] if thumbnails else [])
        numbers = copy.number[wanted].tolist()
        found = (
            self._table.take_row_ids(numbers).select(columns).with_row_id().to_arrow().to_pylist()
        )
        rows = {row["_rowid"]: row_of(row) for row in found}
        return {int(at): rows[number] for at, number in zip(wanted, numbers, strict=True)}

    def _numbers(self, where: str) -> Numbers:
        """The engine's numbers of the rows that meet a filter."""
        found = self._table.search().where(where).select(["_rowid"]).with_row_id(True).to_arrow()
        return np.asarray(found.column("_rowid").to_numpy(), np.uint64)

    def _some(self, most: int) -> tuple[list[str], Vectors]:
        """(ids, vectors) of rows at even distances in stored order."""
        count = int(self._table.count_rows())
        offsets = np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64))
        found = self._table.take_offsets(offsets.tolist()).select(["id", "vector"]).to_arrow()
        vectors = flat(found.column("vector").combine_chunks(), len(found))
        return found.column("id").to_pylist(), vectors

    def _blocks(self) -> Iterator[tuple[Numbers, Vectors]]:
        asked = self._table.search().select(["vector"]).with_row_id(True)
        for part in asked.to_batches(BLOCK):
            yield part.column("_rowid").to_numpy(), flat(part.column("vector"), len(part))


def flat(vectors: Any, count: int) -> Vectors:
    """[B, D] of an Arrow column of vectors."""
    return np.asarray(vectors.flatten().to_numpy(zero_copy_only=False).reshape(count, -1))


def in_order(hits: list[Hit]) -> list[Hit]:
    return sorted(hits, key=lambda hit: (hit.distance, hit.row.id))


def row_of(row: dict[str, Any]) -> Row:
    return Row(id=row["id"], label=row.get("label"), thumbnail=row.get("thumbnail") or b"")
