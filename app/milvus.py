"""The Milvus engine: an index on a server that spans machines, or in a file of Milvus Lite. Searched exactly.

A collection holds the rows, and in its properties what `index.json` and `scale.json` hold of an index in a
folder: whoever reaches the server can open it. The collection's own name is new with every build; people ask
the alias, which moves to the new one when that is whole (milvus_building.py).

Q queries, D dimensions.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from app.columns import Value, values_of
from app.filters import OneOf, keys_of, meant
from app.lance import schema_of
from app.milvus_address import Address
from app.milvus_filters import rendered
from app.milvus_server import Server
from app.store import (
    Condition,
    Hit,
    IndexInfo,
    Row,
    Vectors,
    check_k,
    check_vectors,
)
from app.thumbnail import at_most
from jepack.errors import ArtifactError, ConfigError

STRONG = "Strong"  # a search sees every row that was acknowledged before it
MOST = 16_384  # rows or neighbours of one answer of the server
ROWS = 256  # whole ones at once: with 64 kB of thumbnail and 16 kB of vector at most, 20 MB of 64
BYTES = 16 << 20  # of vectors in one answer
TEXT = 65_535  # bytes of the longest text a field takes
FIELDS = ["id", "label", "thumbnail", "stamp", "said", "vector"]


class MilvusStore:
    """A `VectorStore` in a collection. Any number of writers and readers, on any machines."""

    def __init__(self, address: Address, server: Server, info: IndexInfo, collection: str) -> None:
        self.address = address
        self.folder = address.folder
        self.info = info
        self.collection = collection
        self.server = server

    def upsert(self, rows: Sequence[Row], *, fingerprint: str) -> None:
        if not rows:
            return
        if len({row.id for row in rows}) < len(rows):
            raise ArtifactError(f"{self.address}: the same image id twice in one batch of rows")
        given = [row.vector for row in rows if row.vector is not None]
        if len(given) < len(rows):
            raise ArtifactError(f"{self.address}: every row needs its vector")
        vectors = self._checked(np.stack(given), fingerprint)
        keys = keys_of(self.info)
        self._write(
            [
                {
                    "id": row.id,
                    "label": row.label,
                    "thumbnail": at_most(row.thumbnail, TEXT // 4 * 3),
                    "stamp": row.stamp,
                    "vector": vector,
                    **{key: row.columns.get(column.name) for key, column in keys.items()},
                }
                for row, vector in zip(rows, vectors, strict=True)
            ]
        )

    def search(
        self,
        vectors_QD: Vectors,
        k: int,
        *,
        fingerprint: str,
        thumbnails: bool = False,
        only: Sequence[Condition] = (),
    ) -> list[list[Hit]]:
        vectors = self._checked(vectors_QD, fingerprint)
        if check_k(k) > MOST:
            raise ConfigError(
                f"{self.address}: gives at most {MOST:,} neighbours, {k:,} were asked for"
            )
        wanted = rendered(meant(only, self.info))
        fields = ["id", "label"] + (["thumbnail"] if thumbnails else [])
        at_once = max(1, (ROWS if thumbnails else MOST) // k)
        found = []
        for start in range(0, len(vectors), at_once):
            for answer in self.server.call(
                "search",
                self.collection,
                data=list(vectors[start : start + at_once]),
                anns_field="vector",
                limit=k,
                filter=wanted,
                output_fields=fields,
                search_params={"metric_type": "COSINE", "params": {}},
                consistency_level=STRONG,
            ):
                # A similarity, of which rounding leaves a twin at 1 + 1e-7.
                hits = [
                    Hit(
                        row=to_row(hit["entity"]),
                        distance=max(0.0, 1 - hit["distance"]),
                    )
                    for hit in answer
                ]
                found.append(sorted(hits, key=lambda hit: (hit.distance, hit.row.id)))
        return found

    def found(self, ids: Sequence[str]) -> dict[str, Row]:
        every, found = list(dict.fromkeys(ids)), dict[str, Row]()
        for start in range(0, len(every), ROWS):
            for row in self._query(keys_in(every[start : start + ROWS]), FIELDS):
                found[row["id"]] = to_row(row, self.info)
        return found

    def get(self, ids: Sequence[str]) -> list[Row]:
        found = self.found(ids)
        missing = next((name for name in ids if name not in found), None)
        if missing is not None:
            raise ArtifactError(f"{self.address}: holds no image {missing!r}")
        return [found[name] for name in ids]

    def has(self, name: str) -> bool:
        return bool(self._query(keys_in([name]), ["id"]))

    def scan(self, batch: int = 10_000) -> Iterator[list[Row]]:
        for part in self._all(["id", "label"], batch):
            yield [to_row(row) for row in part]

    def vectors(self, batch: int = 10_000) -> Iterator[tuple[list[str], list[str | None], Vectors]]:
        fit = max(1, BYTES // (4 * self.info.dimension))
        for part in self._all(["id", "label", "vector"], min(batch, fit)):
            vectors = np.array([row["vector"] for row in part], np.float32)
            yield [row["id"] for row in part], [row["label"] or None for row in part], vectors

    def values(self, column: str) -> list[tuple[str, int]]:
        return values_of(self.column(column))

    def column(self, name: str) -> list[Value]:
        key = next(key for key, one in keys_of(self.info).items() if one.name == name)
        return [
            row["said"].get(key) for part in self._all(["id", "said"], ROWS * 8) for row in part
        ]

    def count(self) -> int:
        [row] = self.server.call(
            "query",
            self.collection,
            filter="",
            output_fields=["count(*)"],
            consistency_level=STRONG,
        )
        return int(row["count(*)"])

    def delete(self, ids: Sequence[str]) -> None:
        every = list(ids)
        for start in range(0, len(every), ROWS):
            only = rendered(keys_in(every[start : start + ROWS]))
            self.server.call("delete", self.collection, filter=only)

    def batches(self, batch: int = 2_000) -> Iterator[Any]:
        import pyarrow as pa

        schema, keys = schema_of(pa, self.info), keys_of(self.info)
        for part in self._all(FIELDS, min(batch, ROWS)):
            for row in part:
                row |= {key: row["said"].get(key) for key in keys}
                row |= {
                    "label": row["label"] or None,
                    "thumbnail": base64.b64decode(row["thumbnail"]),
                }
            columns = {
                name: [row[name] for row in part] for name in schema.names if name != "vector"
            }
            flat = np.array([row["vector"] for row in part], np.float32).ravel()
            columns["vector"] = pa.FixedSizeListArray.from_arrays(
                pa.array(flat), self.info.dimension
            )
            yield pa.record_batch(columns, schema=schema)

    def take(self, batch: Any) -> None:
        rows = batch.drop_columns(["vector"]).to_pylist()
        flat = batch.column("vector").flatten().to_numpy(zero_copy_only=False)
        for row, vector in zip(rows, flat.reshape(len(rows), -1), strict=True):
            row["vector"] = vector
        self._write(rows)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        """Rows as `schema_of` has them."""
        keys = keys_of(self.info)
        entities = [
            {
                "key": key_of(row["id"]),
                "id": self._fits(row["id"], row["id"]),
                "label": self._fits(row["label"] or "", row["id"]),
                "thumbnail": self._fits(
                    base64.b64encode(row["thumbnail"] or b"").decode(), row["id"]
                ),
                "stamp": row["stamp"] or "",
                "said": {key: row[key] for key in keys if row[key] is not None},
                "vector": row["vector"],
            }
            for row in rows
        ]
        for start in range(0, len(entities), ROWS):
            self.server.call("upsert", self.collection, data=entities[start : start + ROWS])

    def _checked(self, vectors_QD: Vectors, fingerprint: str) -> Vectors:
        return check_vectors(str(self.address), self.info, vectors_QD, fingerprint, "--to")

    def _fits(self, text: str, name: str) -> str:
        if len(text.encode()) > TEXT:
            raise ArtifactError(
                f"{self.address}: {name!r} needs a text of {len(text.encode()):,} bytes, and Milvus takes "
                f"{TEXT:,}. Leave this image out, or keep the index in a folder (--out)"
            )
        return text

    def _query(self, only: OneOf, fields: list[str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.server.call(
            "query",
            self.collection,
            filter=rendered(only),
            output_fields=fields,
            consistency_level=STRONG,
        )
        return found

    def _all(self, fields: list[str], batch: int) -> Iterator[list[dict[str, Any]]]:
        """Every row, in the order of the keys."""
        rows = self.server.call(
            "query_iterator",
            self.collection,
            batch_size=min(batch, MOST),
            output_fields=fields,
            consistency_level=STRONG,
        )
        with closing(rows):
            while part := self.server.guarded(rows.next):
                yield part


def key_of(name: str) -> str:
    """The primary key of an image, 32 hex digits: pymilvus writes a key into its iterator's filter as it is,
    and an id may hold quotes and backslashes."""
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def keys_in(names: Sequence[str]) -> OneOf:
    return OneOf("key", tuple(map(key_of, names)))


def to_row(row: dict[str, Any], info: IndexInfo | None = None) -> Row:
    """`info`: where the row has its columns too."""
    vector, said = row.get("vector"), row.get("said") or {}
    columns = {} if info is None else keys_of(info)
    return Row(
        id=row["id"],
        label=row.get("label") or None,
        thumbnail=base64.b64decode(row.get("thumbnail") or ""),
        vector=None if vector is None else np.asarray(vector, dtype=np.float32),
        columns={column.name: said.get(key) for key, column in columns.items()},
        stamp=row.get("stamp") or "",
    )
