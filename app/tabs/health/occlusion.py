"""What a likeness rests on: parts of an image are covered, one after the other, and the distance to its
nearest neighbour is measured again.

G parts along each side, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app.desk import Desk
from app.search import by_id
from app.store import Row, Vectors
from jepack.bundle import golden_file
from jepack.decoding import Pixels, Preprocessing, preprocess
from jepack.errors import ConfigError, DataError
from jepack.names import original

PARTS = 7  # along each side


@dataclass(frozen=True)
class Occlusion:
    """Of an image of the index and its nearest neighbour."""

    crop: Pixels  # [H, W, C] uint8: what the encoder sees of it
    image: Row
    neighbour: Row
    distance: float  # with nothing covered
    covered: npt.NDArray[np.float64]  # [G, G] the distance with that part covered


def occlude(desk: Desk, name: str) -> Iterator[float | Occlusion]:
    """Shares that are done, 0..1, and then what was found; whoever stops asking ends it.

    Raises DataError where the image's file is not at hand, ConfigError without a bundle in this process.
    """
    engine, store = desk.engine, desk.library.store
    if engine.bundle is None or engine.remote:
        raise ConfigError(
            "Covering parts of an image needs the encoder's bundle in the page's own process: "
            f"jepack app {desk.library.folder} --bundle BUNDLE"
        )
    row, hits = by_id(store, name, 1, thumbnails=True)
    if not hits:
        raise DataError(f"{name}: is alone in the index, so it is like nothing")
    crop = preprocess.load(file_of(store.info.data, name), engine.bundle.preprocessing)
    neighbour = store.get([hits[0].row.id])[0]
    assert neighbour.vector is not None
    found: list[float] = []
    with closing(engine.connect()) as embedder:
        for line in lines_of(crop, engine.bundle.preprocessing):
            rows = getattr(embedder.embed(line, skip_bad=True), store.info.output)
            found += [distance(vector, neighbour.vector) for vector in rows]
            yield len(found) / (1 + PARTS**2)
    covered = np.array(found[1:]).reshape(PARTS, PARTS)
    yield Occlusion(crop, row, neighbour, found[0], covered)


def file_of(data: str, name: str) -> Path:
    path = Path(data) / original(name)
    if not path.is_file():
        raise DataError(
            f"{path}: the image's own file is not there, and its small picture is not what the encoder sees"
        )
    return path


def lines_of(crop: Pixels, preprocessing: Preprocessing) -> Iterator[list[bytes]]:
    """Files to embed: the image as it is, then each line of parts, one of them covered in each file."""
    yield [golden_file(crop, preprocessing)]
    edges = np.linspace(0, len(crop), PARTS + 1).round().astype(int)
    spans = list(zip(edges, edges[1:], strict=False))
    grey = (
        crop.mean(axis=(0, 1)).round().astype(np.uint8)
    )  # the image's own mean: least of a surprise
    for top, bottom in spans:
        line = []
        for left, right in spans:
            covered = crop.copy()
            covered[top:bottom, left:right] = grey
            line.append(golden_file(covered, preprocessing))
        yield line


def distance(one: Vectors, other: Vectors) -> float:
    """The cosine distance."""
    scale = float(np.linalg.norm(one) * np.linalg.norm(other))
    return max(0.0, 1 - float(one @ other) / max(scale, 1e-30))
