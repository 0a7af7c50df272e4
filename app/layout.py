"""Where every image of an index lies on a map: two numbers each, kept in the index folder and reused.

Two layouts: "pca", the two directions in which the vectors differ most, made at once from the stored vectors;
"umap", where neighbours stay together, made in a process beside the page (arranging.py), with the clusters
that show on it. A file counts only for the fingerprint, the number and the order of rows it was made of.

N images, D dimensions.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from app.store import Vectors, VectorStore
from jepack.errors import DataError
from jepack.files import write_bytes
from jepack.measures import unit

KINDS = ("pca", "umap")
LEAST = 3  # images that make a map
BATCH = 8192  # rows at once
EDGE = 0.95  # of the drawn square that the images fill
SCHEMA = 1

Progress = Callable[[float], None]  # called with the share that is done


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """Groups that show on a layout, the largest first."""

    of_N: npt.NDArray[np.int32]  # number of each image's cluster, -1 for none
    medoid_C: npt.NDArray[
        np.int32
    ]  # row of the member that is nearest to all others of its cluster


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A place for every row of an index, in stored order."""

    kind: str
    fingerprint: str
    order: str  # see `order_of`
    xy_N2: Vectors  # within -1..1
    clusters: Clusters | None = None
    nearest_N: Vectors | None = None  # cosine distance of each image to its nearest other
    kept: float | None = (
        None  # share of an image's ten nearest that are among its ten nearest on the map
    )


def order_of(ids: Iterable[str]) -> str:
    """A digest of the ids in stored order, 16 hex digits: rows are told by their number on a map."""
    digest = hashlib.sha256()
    for name in ids:
        digest.update(name.encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()[:16]


def directions(store: VectorStore, on_progress: Progress = lambda share: None) -> Layout:
    """The principal components of the unit vectors, two passes over the index.

    An axis points to where its largest loading is positive, so that the same index gives the same map. Raises
    DataError for fewer than LEAST images.
    """
    count, dimension = store.count(), store.info.dimension
    if count < LEAST:
        raise DataError(f"A map needs {LEAST} images or more; this index holds {count}.")
    total_D, products_DD, done = np.zeros(dimension), np.zeros((dimension, dimension)), 0
    for _, _, vectors_BD in store.vectors(BATCH):
        rows = unit(vectors_BD)
        total_D += rows.sum(axis=0, dtype=np.float64)
        products_DD += rows.T @ rows
        done += len(rows)
        on_progress(min(0.6, 0.6 * done / count))
    mean_D = total_D / done
    axes_D2 = np.linalg.eigh(products_DD / done - np.outer(mean_D, mean_D))[1][:, :-3:-1]
    axes_D2 = axes_D2 * np.sign(axes_D2[np.abs(axes_D2).argmax(axis=0), range(axes_D2.shape[1])])
    parts, ids = [], []
    for names, _, vectors_BD in store.vectors(BATCH):
        parts.append((unit(vectors_BD) - mean_D) @ axes_D2)
        ids += names
        on_progress(min(1.0, 0.6 + 0.4 * len(ids) / count))
    xy_N2 = within(np.concatenate(parts))
    return Layout(kind="pca", fingerprint=store.info.fingerprint, order=order_of(ids), xy_N2=xy_N2)


def within(xy_N2: npt.NDArray[Any]) -> Vectors:
    """Moved and scaled, both axes alike, to fill the square -1..1 up to a margin."""
    if xy_N2.shape[1] < 2:  # vectors of one dimension
        xy_N2 = np.column_stack([xy_N2, np.zeros(len(xy_N2))])
    low, high = xy_N2.min(axis=0), xy_N2.max(axis=0)
    reach = max(float((high - low).max()) / 2, 1e-12)
    placed: Vectors = ((xy_N2 - (low + high) / 2) / reach * EDGE).astype(np.float32)
    return placed


def place_beside(layout: Layout, rows: list[int]) -> tuple[float, float]:
    """Where an image from outside belongs whose nearest rows these are: amid them.

    The median of each axis: one of the nearest that lies elsewhere on the map does not draw it there.
    """
    x, y = np.median(layout.xy_N2[rows], axis=0)
    return float(x), float(y)


def file_of(folder: Path, kind: str) -> Path:
    return folder / f"map-{kind}.npz"


def packed(layout: Layout) -> bytes:
    """As NumPy's npz."""
    values: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": layout.kind,
        "fingerprint": layout.fingerprint,
        "order": layout.order,
        "xy": layout.xy_N2,
    }
    if layout.clusters is not None:
        values |= {"cluster": layout.clusters.of_N, "medoid": layout.clusters.medoid_C}
    if layout.nearest_N is not None:
        values["nearest"] = layout.nearest_N
    if layout.kept is not None:
        values["kept"] = layout.kept
    stream = io.BytesIO()
    np.savez(stream, **values)
    return stream.getvalue()


def write(folder: Path, layout: Layout) -> None:
    """Beside the index. Raises as `write_bytes` does where that cannot be written to."""
    write_bytes(file_of(folder, layout.kind), packed(layout))


def read(folder: Path, kind: str, fingerprint: str, order: str) -> Layout | None:
    """What was kept for these rows; None where nothing was, it is damaged, or the index is another now."""
    try:
        found = unpacked(file_of(folder, kind).read_bytes())
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, TypeError):
        return None
    return (
        found
        if (found.kind, found.fingerprint, found.order) == (kind, fingerprint, order)
        else None
    )


def unpacked(data: bytes) -> Layout:
    """Raises ValueError or KeyError for what `packed` did not make."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as values:
            kept = {name: values[name] for name in values.files}
    except Exception as error:  # a damaged zip raises a dozen kinds
        raise ValueError("no layout") from error
    if int(kept["schema"]) != SCHEMA:
        raise ValueError("a layout of another version")
    xy_N2 = kept["xy"]
    if xy_N2.ndim != 2 or xy_N2.shape[1] != 2 or not np.isfinite(xy_N2).all():
        raise ValueError("no places")
    layout = Layout(
        kind=str(kept["kind"]),
        fingerprint=str(kept["fingerprint"]),
        order=str(kept["order"]),
        xy_N2=xy_N2.astype(np.float32),
    )
    if "cluster" in kept:
        clusters = Clusters(of_N=kept["cluster"], medoid_C=kept["medoid"])
        layout = replace(layout, clusters=clusters)
    return replace(
        layout,
        nearest_N=kept.get("nearest"),
        kept=float(kept["kept"]) if "kept" in kept else None,
    )
