"""Encoders side by side over all images that they share: measured in the background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.asking import Asked, ask, chance, sample, shares, wilson
from app.store import VectorStore
from app.tabs.compare.matching import Matching, match
from app.work import Work
from jepack.measures.retrieval import interval

SAMPLE = 1000  # images that ask
LEAST = 20  # with fewer matched images nothing is told


@dataclass(frozen=True)
class Figures:
    """What one encoder finds."""

    precision: float  # share of the ten nearest that have the image's label, 0..1
    low: float
    high: float  # 95 %


@dataclass(frozen=True)
class Gap:
    """An encoder beside the first one, on the same images."""

    difference: float  # of precision: above 0 this one is better
    low: float
    high: float  # 95 %, paired bootstrap over the images that asked


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Of encoders in the order they were named."""

    matching: Matching
    images: int  # that asked; 0 where too few match
    labelled: int  # of these have a label
    chance: float
    figures: list[Figures]  # empty without two labels
    gaps: list[Gap]  # of all but the first
    overlaps: list[
        float
    ]  # of all but the first: share of the ten nearest that it has in common with it


def compare(stores: Sequence[VectorStore], work: Work) -> Compared:
    matching = match(stores)
    names = sample(matching.names, SAMPLE) if len(matching.names) >= LEAST else []
    asked = []
    for at, (store, own) in enumerate(zip(stores, matching.ids, strict=True)):

        def advance(share: float, at: int = at) -> None:
            work.advance((at + share) / len(stores))

        back = {theirs: name for name, theirs in own.items()}
        found = ask(store, [own[name] for name in names], back, advance) if names else Asked([], [])
        asked.append(Asked(names, [[back[one] for one in row] for row in found.nearest]))
    return figured(matching, names, asked)


def figured(matching: Matching, names: list[str], asked: list[Asked]) -> Compared:
    labels = {name: matching.labels.get(name) for name in matching.names}
    shares_EQ = np.array([shares(one, labels) for one in asked])
    shares_EQ = shares_EQ[:, np.isfinite(shares_EQ).all(axis=0)]
    count = shares_EQ.shape[1]
    figures, gaps = [], []
    if count and len(set(matching.labels.values())) > 1:
        for row in shares_EQ:
            mean = float(row.mean())
            figures.append(Figures(mean, *wilson(mean, count)))
        for row in shares_EQ[1:]:
            differences = row - shares_EQ[0]
            gaps.append(Gap(float(differences.mean()), *interval(differences)))
    return Compared(
        matching=matching,
        images=len(names),
        labelled=count,
        chance=chance(labels, names),
        figures=figures,
        gaps=gaps,
        overlaps=[overlap(asked[0], other) for other in asked[1:]] if names else [],
    )


def overlap(one: Asked, other: Asked) -> float:
    """The mean share of the ten nearest that both have, 0..1."""
    pairs = zip(one.nearest, other.nearest, strict=True)
    return float(np.mean([len(set(a) & set(b)) / max(1, len(a)) for a, b in pairs]))
