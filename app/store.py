"""Where vectors live: one small interface, and what an index says about itself.

An index is a folder: `index.json` (below) beside the engine's own files, or beside a pointer to the server
that holds the rows. It holds one output of one encoder; vectors of another fingerprint or dimension are
refused, because distances between two embedding spaces mean nothing. The engines are LanceDB (lance.py) and
Milvus (milvus.py), both searched exactly; engines.py finds out which one an index is in.

Q queries, D dimensions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from app.columns import KINDS, Column, Value
from jepack.bundle import MANIFEST, OUTPUTS
from jepack.errors import ArtifactError, ConfigError
from jepack.files import write_json

Vectors = npt.NDArray[np.float32]

SCHEMA = 1
METADATA = "index.json"
METRIC = "cosine"


@dataclass(frozen=True, kw_only=True)
class IndexInfo:
    """What an index holds; stored as its `index.json`."""

    name: str  # shown to people
    output: str  # "embedding" or "projection"
    dimension: int
    fingerprint: str  # of that output's space, 16 hex digits
    data: str  # folder that the image ids are relative to
    bundle: str | None = None  # name of the encoder's bundle, where known
    bundle_folder: str | None = None  # where it lay, where it was at hand
    data_license: str | None = None  # of the images, where known
    count: int = 0  # rows when the index was built; `VectorStore.count` is today's truth
    created: str = ""  # ISO 8601, UTC
    crop_pct: float = 1.0  # of the encoder, see Preprocessing
    crop_mode: str = "center"
    asked: str = ""  # digest of the names of all images there were, the skipped ones too
    columns: tuple[Column, ...] = ()  # what the manifest says of the images besides their label
    metric: str = METRIC
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image of an index. `vector` [D] and `thumbnail` are empty where they were not asked for."""

    id: str  # its path below the data folder, with forward slashes, see names.kept
    label: str | None = None
    thumbnail: bytes = b""  # WebP
    vector: Vectors | None = None
    columns: Mapping[str, Value] = field(
        default_factory=dict
    )  # of whole rows; None: nothing is said
    stamp: str = ""  # of whole rows: of its file when it was indexed, see updating.stamp_of


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A row found by a search, with its cosine distance to the query: 0 same direction, 2 opposite."""

    row: Row
    distance: float


@dataclass(frozen=True)
class Condition:
    """What a row must be to be found: its label, or one of the index's columns, against a value.

    `sign`: "is", "not", "from" (at least) or "to" (at most). A row that has no value meets none.
    """

    column: str
    sign: str
    value: str


class VectorStore(Protocol):
    """What the app asks of a vector engine."""

    def __hash__(self) -> int:
        """Each opening is one of its own: what is measured of an index is kept for it."""

    @property
    def info(self) -> IndexInfo: ...

    @property
    def folder(self) -> Path:
        """Where what is about the index lies on this machine: its scale, its maps; the journal beside it."""

    def upsert(self, rows: Sequence[Row], *, fingerprint: str) -> None:
        """Add rows, or replace those whose id is already there. Every row needs its vector."""

    def search(
        self,
        vectors_QD: Vectors,
        k: int,
        *,
        fingerprint: str,
        thumbnails: bool = False,
        only: Sequence[Condition] = (),
    ) -> list[list[Hit]]:
        """The k nearest rows of each query that meet all of `only`, nearest first; fewer if there are fewer.

        ConfigError for a condition on what the index does not hold.
        """

    def get(self, ids: Sequence[str]) -> list[Row]:
        """Whole rows in the order of `ids`. ArtifactError when one is not there."""

    def found(self, ids: Sequence[str]) -> dict[str, Row]:
        """{id: whole row} of those that are there."""

    def has(self, name: str) -> bool:
        """Whether an image of this id is there."""

    def scan(self, batch: int = 10_000) -> Iterator[list[Row]]:
        """Every row's id and label in stored order (the engine's own, the same everywhere), in batches."""

    def vectors(self, batch: int = 10_000) -> Iterator[tuple[list[str], list[str | None], Vectors]]:
        """(ids, labels, vectors [B, D]) of every row in stored order, in batches."""

    def values(self, column: str) -> list[tuple[str, int]]:
        """The most frequent values of a category, by name, and how many rows have each."""

    def column(self, name: str) -> list[Value]:
        """What every row says in one of the index's columns, in stored order; None: nothing."""

    def batches(self, batch: int = 2_000) -> Iterator[Any]:
        """Every row with all that is kept of it, in stored order: Arrow batches of `lance.schema_of`."""

    def take(self, batch: Any) -> None:
        """Add the rows of an Arrow batch of `batches`, or replace those whose id is already there."""

    def count(self) -> int: ...

    def delete(self, ids: Sequence[str]) -> None:
        """Remove rows; ids that are not there are passed over."""


def check_vectors(
    folder: Path | str,
    info: IndexInfo,
    vectors_QD: npt.NDArray[Any],
    fingerprint: str,
    option: str = "--out",
) -> Vectors:
    """`vectors_QD` as float32, or ArtifactError when they do not belong to this index.

    `option`: of `jepack index` that names `folder`, or the address that stands in its place.
    """
    vectors = np.ascontiguousarray(vectors_QD, dtype=np.float32)
    rebuild = f"Rebuild it: jepack index {info.data} {option} {folder} --output {info.output}"
    if vectors.ndim != 2:
        raise ArtifactError(f"{folder}: need vectors as [Q, D], found shape {vectors.shape}")
    if vectors.shape[1] != info.dimension:
        raise ArtifactError(
            f"{folder}: vectors have {vectors.shape[1]} dimensions but the index holds "
            f"{info.dimension}. {rebuild}"
        )
    if fingerprint != info.fingerprint:
        raise ArtifactError(
            f"{folder}: vectors have fingerprint {fingerprint or 'unknown'} but the index holds "
            f"{info.fingerprint}: another encoder made them, so distances would mean nothing. {rebuild}"
        )
    norms = np.linalg.norm(vectors, axis=1)
    bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if bad.size:
        raise ArtifactError(
            f"{folder}: vector {bad[0]} is zero or not finite, so it has no cosine distance. "
            "Check the encoder: jepack verify BUNDLE"
        )
    return vectors


def check_k(k: int) -> int:
    if k < 1:
        raise ConfigError(f"k must be at least 1, found {k}")
    return k


def read_info(folder: Path) -> IndexInfo:
    """The metadata of an index. Raises ArtifactError saying what is wrong and what to do."""
    make = f"Make it: jepack index DATA --out {folder}"
    if folder.is_dir() and not (folder / METADATA).exists() and any(folder.iterdir()):
        make = f"Name an index, or make one: jepack index {folder} --bundle BUNDLE --out INDEX"
        if (folder / MANIFEST).is_file():
            make = f"It is a bundle. Make an index with it: jepack index DATA --bundle {folder} --out INDEX"
    try:
        value = json.loads((folder / METADATA).read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(f"{folder}: no index here ({METADATA} is missing). {make}") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder}: {METADATA} cannot be read ({error}). {make}") from error
    return info_of(value, f"{folder}: {METADATA}", make)


def info_of(value: Any, named: str, make: str) -> IndexInfo:
    """What `asdict` made of an IndexInfo, as JSON gives it back. Raises ArtifactError, see `read_info`."""
    if isinstance(value, dict) and value.get("schema") != SCHEMA:
        raise ArtifactError(
            f"{named} has schema {value.get('schema')}, this jepack reads {SCHEMA}: "
            f"upgrade jepack, or build the index again. {make}"
        )
    known = {field.name for field in fields(IndexInfo)}
    needed = {"name", "output", "dimension", "fingerprint", "data", "metric"}
    if not isinstance(value, dict) or needed - set(value):
        missing = sorted(needed - set(value if isinstance(value, dict) else ()))
        raise ArtifactError(f"{named} lacks {', '.join(missing)}. {make}")
    told = {key: value[key] for key in known & set(value)}
    try:
        columns = tuple(Column(**one) for one in told.get("columns", ()))
    except TypeError as error:
        raise ArtifactError(f"{named} has odd columns ({error}). {make}") from error
    if not all(one.kind in KINDS and isinstance(one.name, str) for one in columns):
        raise ArtifactError(f"{named} has columns of unknown kinds. {make}")
    info = IndexInfo(**{**told, "columns": columns})
    if info.metric != METRIC or info.output not in OUTPUTS:
        raise ArtifactError(
            f"{named} names metric {info.metric} and output {info.output}; "
            f"need {METRIC} and {' or '.join(OUTPUTS)}. {make}"
        )
    return info


def write_info(folder: Path, info: IndexInfo) -> None:
    write_json(folder / METADATA, asdict(info))
