"""The two ways into an index: an image already in it, or a new one through the endpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from app.indexing import Embedder, fingerprint_of
from app.store import Hit, Row, Vectors, VectorStore
from jepack.errors import DataError


def by_id(
    store: VectorStore, name: str, k: int, *, thumbnails: bool = False
) -> tuple[Row, list[Hit]]:
    """An indexed image and its neighbours, from its stored vector; the image itself comes first."""
    row = store.get([name])[0]
    assert row.vector is not None
    fingerprint = store.info.fingerprint
    [hits] = store.search(row.vector[None], k, fingerprint=fingerprint, thumbnails=thumbnails)
    # Exact copies of the image lie at distance 0 too; the one that was asked for leads.
    others = [hit for hit in hits if hit.row.id != name]
    return row, [Hit(row=row, distance=0.0), *others[: k - 1]]


def by_image(
    store: VectorStore, image: Path | bytes, embedder: Embedder, k: int, *, thumbnails: bool = False
) -> tuple[Vectors, list[Hit]]:
    """The vector [D] of a new image and its neighbours, embedded through the endpoint.

    Raises DataError for an image that cannot be read, ServerError when the endpoint does not answer,
    ArtifactError when it serves another encoder than the index holds.
    """
    result = embedder.embed([image], skip_bad=True)
    if result.errors:
        raise DataError(next(iter(result.errors.values())))
    output = store.info.output
    vector = np.asarray(getattr(result, output)[0], dtype=np.float32)
    fingerprint = fingerprint_of(result.fingerprints, output, "the endpoint")
    [hits] = store.search(vector[None], k, fingerprint=fingerprint, thumbnails=thumbnails)
    return vector, hits
