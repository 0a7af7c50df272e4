"""The two ways into an index: an image already in it, or a new one through an engine. D dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.indexing import Embedder, fingerprint_of
from app.store import Hit, Row, Vectors, VectorStore
from jepack.errors import DataError


@dataclass(frozen=True)
class Answer:
    """What a new image is to the encoder, and the images nearest to it."""

    vector: Vectors  # [D], of the index's output
    projection: Vectors  # [P]
    hits: list[Hit]
    spaces: dict[str, Vectors]  # {fingerprint: vector} of all the encoder's outputs


def by_id(
    store: VectorStore, name: str, k: int, *, thumbnails: bool = False
) -> tuple[Row, list[Hit]]:
    """An indexed image and its k nearest others, from its stored vector."""
    row = store.get([name])[0]
    assert row.vector is not None
    fingerprint = store.info.fingerprint
    # Exact copies of the image lie at distance 0 too, so it may stand anywhere among them.
    [hits] = store.search(row.vector[None], k + 1, fingerprint=fingerprint, thumbnails=thumbnails)
    return row, [hit for hit in hits if hit.row.id != name][:k]


def by_image(
    store: VectorStore, image: Path | bytes, embedder: Embedder, k: int, *, thumbnails: bool = False
) -> Answer:
    """A new image's neighbours.

    Raises DataError for an image that cannot be read, ServerError when the endpoint does not answer,
    ArtifactError when it serves another encoder than the index holds.
    """
    result = embedder.embed([image], skip_bad=True)
    if result.errors:
        named = f"{image}: " if isinstance(image, Path) else ""
        raise DataError(named + next(iter(result.errors.values())))
    output = store.info.output
    vector = np.asarray(getattr(result, output)[0], dtype=np.float32)
    fingerprint = fingerprint_of(result.fingerprints, output, "the endpoint")
    [hits] = store.search(vector[None], k, fingerprint=fingerprint, thumbnails=thumbnails)
    spaces = {space: np.asarray(getattr(result, o)[0]) for o, space in result.fingerprints.items()}
    return Answer(vector, np.asarray(result.projection[0]), hits, spaces)
