"""An index's own distances: what is near here, what is unusual here, and how well labels are found.

A cosine distance means nothing by itself: 0.02 is far for one encoder and next to nothing for another. So
each index is measured once, on a sample of its own images, when it is built (`scale.json`), or when an older
one is opened.

S sampled images, B rows of a batch, D dimensions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from app.store import VectorStore
from jepack.files import write_json
from jepack.measures import unit

FILE = "scale.json"
SCHEMA = 1
SAMPLE = (
    2000  # images that ask: 154 GFLOP for 100,000 vectors of 384 dimensions, some 5 s on one core
)
LEAST = 20  # with fewer images nothing can be called usual
BATCH = 8192  # rows at once
KNOTS = 1001  # of the distances of pairs
K = 10  # neighbours that should share a label
PAIRS = 100  # of one class, to say how far apart they lie
UNUSUAL = 0.01  # share of an index's own images beyond which a query is told not to belong
FAR = 0.10

Progress = Callable[[float], None]  # called with the share that is done


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What the distances of one index mean."""

    images: int  # rows when it was measured
    nearest: list[float]  # ascending: from each sampled image to its nearest other
    pairs: list[float]  # ascending: KNOTS quantiles over pairs of images taken at random
    same: float | None = None  # median of two images of one label, where labels say something
    precision: dict[str, tuple[float, int]] = field(
        default_factory=dict
    )  # label: see `found_by_label`
    schema: int = SCHEMA

    def rarity(self, distance: float) -> float:
        """How many of the index's own images lie as far from their nearest other, 0..1, as a p-value.

        At most a share p of images like those of the index has a value <= p: conformal, with the query
        counted among them.
        """
        n = len(self.nearest)
        at_least = n - int(np.searchsorted(self.nearest, distance, side="left"))
        return (1 + at_least) / (1 + n)

    @property
    def unusual(self) -> float:
        """The rarity from which on an image does not belong: 1 %, or beyond all of a small index."""
        return max(UNUSUAL, 1 / (1 + len(self.nearest)))

    def nearer_than(self, distance: float) -> float:
        """The share of pairs at random that lie farther apart, 0..1."""
        return 1 - share_below(self.pairs, distance)

    def fill(self, distance: float) -> float:
        """The bar of a distance, 1 is full: 1 for a copy, 3/4 at the median nearest neighbour, 1/4 at the
        median pair. The mean of two percentiles: among the nearest neighbours', and among pairs at random."""
        if distance <= 0:
            return 1.0
        return 1 - (share_below(self.nearest, distance) + share_below(self.pairs, distance)) / 2

    def overall(self) -> tuple[float, int] | None:
        """(share of the ten nearest that have the image's label, images that asked)."""
        asked = sum(count for _, count in self.precision.values())
        if not asked:
            return None
        return sum(share * count for share, count in self.precision.values()) / asked, asked

    def weakest(self, most: int = 2) -> list[tuple[str, float]]:
        """The labels that are found worst, of those that asked often enough to say so and are found worse
        than all together."""
        found = self.overall()
        known = [
            (label, share)
            for label, (share, n) in self.precision.items()
            if n >= K and found is not None and share < found[0]
        ]
        return sorted(known, key=lambda pair: pair[1])[:most]


def share_below(ascending: list[float], value: float) -> float:
    """0..1: the value's percentile, halfway through equal ones."""
    low = np.searchsorted(ascending, value, side="left")
    high = np.searchsorted(ascending, value, side="right")
    return float(low + high) / 2 / len(ascending)


def measure(store: VectorStore, on_progress: Progress = lambda share: None) -> Scale | None:
    """Ask with a sample of the images among all; None where there are too few."""
    count = store.count()
    if count < LEAST:
        return None
    rng = np.random.default_rng(0)
    picked = np.sort(rng.choice(count, min(SAMPLE, count), replace=False))
    sample_SD, labels = sampled(store, picked)
    best = Nearest(len(picked))
    start = 0
    for names, own, vectors_BD in store.vectors(BATCH):
        similar = sample_SD @ unit(vectors_BD).T
        inside = (picked >= start) & (picked < start + len(names))
        similar[np.flatnonzero(inside), picked[inside] - start] = -np.inf  # not the image itself
        best.add(similar, own)
        start += len(names)
        on_progress(min(1.0, start / count))
    apart = np.maximum(0, 1 - (sample_SD @ sample_SD.T)[np.triu_indices(len(picked), 1)])
    return Scale(
        images=count,
        nearest=rounded(np.sort(np.maximum(0, 1 - best.similar[:, 0]))),
        pairs=rounded(np.quantile(apart, np.linspace(0, 1, KNOTS))),
        same=same_label(apart, labels),
        precision=found_by_label(labels, best.marks),
    )


def sampled(store: VectorStore, picked: npt.NDArray[np.int64]) -> tuple[Any, list[str | None]]:
    """The picked rows as unit vectors [S, D], and their labels."""
    parts, labels, start = [], list[str | None](), 0
    for names, own, vectors_BD in store.vectors(BATCH):
        here = picked[(picked >= start) & (picked < start + len(names))] - start
        parts.append(unit(vectors_BD[here]))
        labels += [own[at] for at in here]
        start += len(names)
    return np.concatenate(parts), labels


class Nearest:
    """The K most similar rows of each sampled image so far, nearest first, and what is told of them.

    `marks`: their labels, or their ids.
    """

    def __init__(self, count: int) -> None:
        self.similar = np.full((count, 0), -np.inf, np.float32)
        self.marks = np.empty((count, 0), object)

    def add(self, similar_SB: npt.NDArray[Any], marks: Sequence[str | None]) -> None:
        k = min(K, similar_SB.shape[1])
        at = np.argpartition(-similar_SB, k - 1, axis=1)[:, :k]
        similar = np.concatenate([self.similar, np.take_along_axis(similar_SB, at, axis=1)], axis=1)
        named = np.concatenate([self.marks, np.array(marks, object)[at]], axis=1)
        order = np.argsort(-similar, axis=1, kind="stable")[:, :K]
        self.similar = np.take_along_axis(similar, order, axis=1)
        self.marks = np.take_along_axis(named, order, axis=1)


def same_label(apart: npt.NDArray[Any], labels: list[str | None]) -> float | None:
    """The median distance of two images of one label, where they lie nearer than others do."""
    codes = codes_of(labels)
    first, second = np.triu_indices(len(labels), 1)
    known = (codes[first] >= 0) & (codes[second] >= 0)
    same = known & (codes[first] == codes[second])
    other = known & ~same
    if same.sum() < PAIRS or other.sum() < PAIRS:
        return None
    near, far = float(np.median(apart[same])), float(np.median(apart[other]))
    return round(near, 7) if near < far else None


def codes_of(labels: list[str | None]) -> npt.NDArray[np.int64]:
    """A number per label, -1 for none."""
    numbers = {name: at for at, name in enumerate(sorted({one for one in labels if one}))}
    return np.array([numbers.get(one, -1) if one else -1 for one in labels])


def found_by_label(labels: list[str | None], nearest: Any) -> dict[str, tuple[float, int]]:
    """{label: (share of the ten nearest with the same label, images that asked)}; {} for a single label."""
    found: dict[str, list[float]] = {}
    for own, others in zip(labels, nearest, strict=True):
        if own:
            found.setdefault(own, []).append(float(np.mean([one == own for one in others])))
    if len(found) < 2:
        return {}
    return {name: (round(float(np.mean(s)), 4), len(s)) for name, s in sorted(found.items())}


def rounded(values: npt.NDArray[Any]) -> list[float]:
    return [round(float(value), 7) for value in values]


def write(folder: Path, scale: Scale | None) -> None:
    """Beside the index. What cannot be written is measured again with the next opening."""
    if scale is not None:
        write_json(folder / FILE, asdict(scale))


def read(folder: Path, images: int) -> Scale | None:
    """What was kept; None where nothing was, or the index holds another number of images now."""
    try:
        scale = from_text((folder / FILE).read_text())
    except (OSError, ValueError):
        return None
    return scale if scale is not None and scale.images == images else None


def text_of(scale: Scale | None) -> str:
    """For a place that is no folder; "" where there is none."""
    return "" if scale is None else json.dumps(asdict(scale))


def from_text(text: str | None) -> Scale | None:
    """What `text_of`, or the file of `write`, says; None where that is nothing of use."""
    try:
        value = json.loads(text or "null")
        scale = Scale(**{**value, "precision": pairs_of(value["precision"])})
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return scale if scale.schema == SCHEMA and scale.nearest else None


def pairs_of(value: dict[str, Any]) -> dict[str, tuple[float, int]]:
    return {str(name): (float(share), int(n)) for name, (share, n) in value.items()}
