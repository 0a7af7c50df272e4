"""Searching with an elongated image square by square: what any of them is near to.

T squares, D dimensions, P of the projection.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.indexing import Embedder, fingerprint_of
from app.originals import Box, as_file, part_of
from app.store import Condition, Hit, Vectors, VectorStore
from jepack.decoding import decode
from jepack.errors import DataError

MOST = 64  # squares of one image


@dataclass(frozen=True)
class Tiled:
    """The images nearest to any square, each with the square it is nearest to."""

    squares: list[Box]
    hits: list[Hit]  # nearest first
    matched: list[int]  # of each hit, the number of its square
    projection: Vectors  # [P], of the square that is nearest to any image


def squares_of(height: int, width: int) -> list[Box]:
    """As few squares as cover it, evenly placed along its longer side. Raises DataError for too many."""
    short, long = sorted((height, width))
    count = math.ceil(long / short)
    if count > MOST:
        raise DataError(
            f"{width} x {height} px are {count} squares, up to {MOST} can ask. Cut the image into parts"
        )
    starts = np.linspace(0, 1 - short / long, count)
    ends = [(float(start), float(start) + short / long) for start in starts]
    return [(a, 0.0, b, 1.0) if width > height else (0.0, a, 1.0, b) for a, b in ends]


def by_tiles(
    store: VectorStore,
    image: bytes | Path,
    embedder: Embedder,
    k: int,
    *,
    channels: int = 3,
    but: str = "",
    only: Sequence[Condition] = (),
    thumbnails: bool = False,
) -> Tiled:
    """Neighbours of an image's squares, each cut as the encoder's own decoder reads it; `but` is left out.

    Raises as `app.search.by_image` does.
    """
    window = embedder.endpoint().window
    pixels = decode(image, channels, window)
    squares = squares_of(*pixels.shape[:2])
    parts = [as_file(part_of(pixels, one), channels, window) for one in squares]
    result = embedder.embed(parts, skip_bad=True)
    if result.errors:
        raise DataError(next(iter(result.errors.values())))
    output = store.info.output
    vectors_TD = np.asarray(getattr(result, output), dtype=np.float32)
    fingerprint = fingerprint_of(result.fingerprints, output, "the endpoint")
    # The k nearest to any square are among the k nearest to each.
    found = store.search(
        vectors_TD, k + bool(but), fingerprint=fingerprint, thumbnails=thumbnails, only=only
    )
    best: dict[str, tuple[Hit, int]] = {}
    for number, hits in enumerate(found):
        for hit in hits:
            known = best.get(hit.row.id)
            if hit.row.id != but and (known is None or hit.distance < known[0].distance):
                best[hit.row.id] = (hit, number)
    nearest = sorted(best.values(), key=lambda one: one[0].distance)[:k]
    first = nearest[0][1] if nearest else 0
    return Tiled(
        squares,
        [hit for hit, _ in nearest],
        [number for _, number in nearest],
        np.asarray(result.projection[first]),
    )
