"""The LanceDB engine: embedded, several processes, safe against kill -9. lance_search.py searches it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np

from app import scale
from app.columns import Value, values_of
from app.lance_errors import damaged, engine_errors, reads
from app.lance_filters import id_in, keys_of, where
from app.lance_search import Progress, Searcher
from app.scan import kept
from app.store import (
    METADATA,
    Condition,
    Hit,
    IndexInfo,
    Row,
    Vectors,
    check_k,
    check_vectors,
    read_info,
    write_info,
)
from jepack.errors import ArtifactError, ConfigError, DependencyError
from jepack.files import new_folder
from jepack.machine import alone
from jepack.names import valid

TABLE = "images"
IDS_PER_FILTER = 500


def open_index(folder: Path | str) -> LanceStore:
    """Open an index that `building` made. Raises ArtifactError when there is none or it is damaged."""
    folder = Path(folder)
    info = read_info(folder)
    try:
        table = connect(folder).open_table(TABLE)
    except (ValueError, OSError, RuntimeError) as error:
        raise damaged(folder, info, error) from error
    return LanceStore(folder, info, table)


@contextmanager
def building(
    folder: Path | str, info: IndexInfo, recall: float | None = None
) -> Iterator[LanceStore]:
    """A new empty store to fill; it takes the place of `folder` when the block ends well.

    `recall`: of approximate search at least, see `approximate.wanted`.

    Until then, whatever happens (an error, Ctrl-C, kill -9), the index at `folder` is as it was.
    """
    folder = Path(folder)
    check_own(folder)
    with new_folder(folder) as stage, engine_errors(folder):
        store = create(stage, info)
        store.folder = folder
        yield store
        settle(stage, store, recall)
        scale.write(stage, scale.measure(store))
        write_info(
            stage,
            replace(
                info,
                count=store.count(),
                created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            ),
        )


def settle(stage: Path, store: LanceStore, recall: float | None = None) -> None:
    """Make what search is fast by, in a folder that nobody else reads yet."""
    table = store._table
    table.optimize(
        cleanup_older_than=timedelta(milliseconds=1)
    )  # a file an upsert slows all reading
    searcher = Searcher(stage, table)
    searcher.make_copy()
    searcher.make_approximate(recall)


def check_own(folder: Path) -> None:
    """Raises ArtifactError for a folder that holds something else."""
    if folder.is_dir() and not (folder / METADATA).is_file() and any_entry(folder):
        raise ArtifactError(
            f"{folder}: not empty and not an index, so it is left alone. Choose another --out."
        )


def create(folder: Path, info: IndexInfo) -> LanceStore:
    """An empty table in a folder that is there, and no index yet."""
    import pyarrow as pa

    # Ids never vanish or repeat: the engine must know the key, or two processes that upsert
    # the same new ids leave both (measured: 17,400 rows for 16,200 ids).
    table = connect(folder).create_table(TABLE, schema=schema_of(pa, info))
    table.set_unenforced_primary_key("id")
    return LanceStore(folder, info, table)


class LanceStore:
    """A `VectorStore` in a folder. One writer thread; any number of readers."""

    def __init__(self, folder: Path, info: IndexInfo, table: Any) -> None:
        self.folder = folder
        self.info = info
        self._table = table
        self._searcher = Searcher(folder, table)

    def upsert(self, rows: Sequence[Row], *, fingerprint: str) -> None:
        import pyarrow as pa

        if not rows:
            return
        ids = [row.id for row in rows]
        if len(set(ids)) < len(ids):
            # The engine would keep both when the id is new.
            raise ArtifactError(f"{self.folder}: the same image id twice in one batch of rows")
        given = [row.vector for row in rows if row.vector is not None]
        if len(given) < len(rows):
            raise ArtifactError(f"{self.folder}: every row needs its vector")
        vectors = check_vectors(self.folder, self.info, np.stack(given), fingerprint)
        schema = self._table.schema  # an older index has no stamps
        columns = {
            "id": ids,
            "label": [row.label for row in rows],
            "thumbnail": [row.thumbnail for row in rows],
            "stamp": [row.stamp for row in rows],
            **{
                key: [row.columns.get(column.name) for row in rows]
                for key, column in keys_of(self.info).items()
            },
            "vector": pa.FixedSizeListArray.from_arrays(
                pa.array(vectors.ravel()), self.info.dimension
            ),
        }
        self._merge(pa.table({name: columns[name] for name in schema.names}, schema=schema))

    @reads
    def search(
        self,
        vectors_QD: Vectors,
        k: int,
        *,
        fingerprint: str,
        thumbnails: bool = False,
        only: Sequence[Condition] = (),
    ) -> list[list[Hit]]:
        vectors = check_vectors(self.folder, self.info, vectors_QD, fingerprint)
        return self._searcher.search(vectors, check_k(k), where(only, self.info), thumbnails)

    @reads
    def make_copy(self, on_progress: Progress = lambda share: None) -> None:
        """Make the 8-bit copy that `search` is fast by, where the table as it is now has none."""
        mend = "Copy the index to a local disk, where searching it is fast."
        with alone(self.folder / kept.LOCK, mend):
            self._searcher.make_copy(on_progress)

    @property
    def has_copy(self) -> bool:
        return self._searcher.copy() is not None

    @reads
    def found(self, ids: Sequence[str]) -> dict[str, Row]:
        """{id: whole row} of those that are there."""
        found = {}
        for part in chunks(list(ids), IDS_PER_FILTER):
            for row in self._table.search().where(id_in(part)).limit(len(part)).to_list():
                found[row["id"]] = to_row(row, self.info)
        return found

    def get(self, ids: Sequence[str]) -> list[Row]:
        found = self.found(ids)
        missing = next((name for name in ids if name not in found), None)
        if missing is not None:
            raise ArtifactError(f"{self.folder}: holds no image {missing!r}")
        return [found[name] for name in ids]

    @reads
    def has(self, name: str) -> bool:
        return bool(self._table.count_rows(id_in([name])))

    @reads
    def scan(self, batch: int = 10_000) -> Iterator[list[Row]]:
        for part in self._table.search().select(["id", "label"]).to_batches(batch):
            yield [to_row(row) for row in part.to_pylist()]

    @reads
    def vectors(self, batch: int = 10_000) -> Iterator[tuple[list[str], list[str | None], Vectors]]:
        columns = ["id", "label", "vector"]
        for part in self._table.search().select(columns).to_batches(batch):
            flat = part.column("vector").flatten().to_numpy(zero_copy_only=False)
            rows = flat.reshape(-1, self.info.dimension)
            yield part.column("id").to_pylist(), part.column("label").to_pylist(), rows

    def values(self, column: str) -> list[tuple[str, int]]:
        return values_of(self.column(column))

    @reads
    def column(self, name: str) -> list[Value]:
        key = next(key for key, one in keys_of(self.info).items() if one.name == name)
        found: list[Value] = self._table.search().select([key]).to_arrow().column(key).to_pylist()
        return found

    @reads
    def batches(self, batch: int = 2_000) -> Iterator[Any]:
        import pyarrow as pa

        schema = schema_of(pa, self.info)
        for part in self._table.search().select(self._table.schema.names).to_batches(batch):
            columns = {  # an older index has no stamps
                field.name: part.column(field.name)
                if field.name in part.schema.names
                else pa.nulls(len(part), field.type)
                for field in schema
            }
            yield pa.record_batch(columns, schema=schema)

    def take(self, batch: Any) -> None:
        import pyarrow as pa

        self._merge(pa.Table.from_batches([batch]))

    def _merge(self, table: Any) -> None:
        (
            self._table.merge_insert("id")
            .when_matched_update_all()
            .when_not_matched_insert_all()
            .execute(table)
        )

    @reads
    def count(self) -> int:
        return int(self._table.count_rows())

    def delete(self, ids: Sequence[str]) -> None:
        for part in chunks(list(ids), IDS_PER_FILTER):
            self._table.delete(id_in(part))


def connect(folder: Path) -> Any:
    if valid(str(folder)) != str(folder):
        raise ConfigError(
            f"{folder}: not a UTF-8 name, which the vector engine needs. Choose another name, or set "
            "LC_ALL to a UTF-8 locale where it is one"
        )
    # Its log warns about every table that is new; errors still show.
    os.environ.setdefault("LANCEDB_LOG", "error")
    try:
        import lancedb
    except ModuleNotFoundError as error:
        raise DependencyError(
            "The index needs lancedb, which is not installed. Install it: pip install 'jepack[app]'"
        ) from error
    return lancedb.connect(folder)


def schema_of(pa: Any, info: IndexInfo) -> Any:
    kinds = {"number": pa.float64(), "date": pa.string(), "category": pa.string()}
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("label", pa.string()),
            pa.field("thumbnail", pa.binary()),
            pa.field("stamp", pa.string()),
            *(pa.field(key, kinds[one.kind]) for key, one in keys_of(info).items()),
            pa.field("vector", pa.list_(pa.float32(), info.dimension), nullable=False),
        ]
    )


def to_row(row: dict[str, Any], info: IndexInfo | None = None) -> Row:
    """`info`: where the row has its columns too."""
    vector = row.get("vector")
    columns = {} if info is None else keys_of(info)
    return Row(
        id=row["id"],
        label=row.get("label"),
        thumbnail=row.get("thumbnail") or b"",
        vector=None if vector is None else np.asarray(vector, dtype=np.float32),
        columns={column.name: row.get(key) for key, column in columns.items()},
        stamp=row.get("stamp") or "",
    )


def chunks(values: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def any_entry(folder: Path) -> bool:
    return not folder.is_dir() or any(folder.iterdir())
