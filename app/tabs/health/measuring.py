"""The vectors of an index beside the Gaussian, and what they find: measured in the background.

N sampled images, D dimensions, M directions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.asking import ask, chance, sample, shares, wilson
from app.store import Row, VectorStore
from app.work import Work
from jepack.measures import isotropy

SAMPLE = 2000  # images; a statistic of 256 directions takes a second on one core
LEAST = 20  # with fewer images nothing is told
BINS = np.linspace(-4, 4, 41)
ENDS = 5  # pictures at each end of the worst direction
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OfLabel:
    """How well the images of one label find their like."""

    label: str
    share: float  # of the ten nearest that have it, 0..1
    low: float
    high: float  # 95 %
    images: int  # that asked


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Of the images of one index."""

    images: int
    dimensions: int
    report: isotropy.IsotropyReport
    bells: Floats  # [40] density of all directions together, in BINS
    worst: Floats  # [40] of the direction that looks least like a bell
    worst_statistic: float  # over the floor: 1 at the Gaussian
    ends: tuple[list[Row], list[Row]]  # images farthest to either side of it
    labels: list[OfLabel]  # the weakest first
    overall: OfLabel | None
    chance: float  # share at random


def measure(store: VectorStore, work: Work) -> Measured | None:
    """None where there are too few images. Vectors of an embedding are centred and scaled by one number."""
    catalogue = {row.id: row.label for part in store.scan() for row in part}
    if len(catalogue) < LEAST:
        return None
    names = sample(list(catalogue), SAMPLE)
    x_ND = standard(vectors_of(store, names), store.info.output)
    work.advance(0.1)
    report = isotropy.report(x_ND)
    work.advance(0.3)
    directions_DM = isotropy.random_directions(x_ND.shape[1], isotropy.SLICES, 0)
    statistics_M = isotropy.sliced_statistic(x_ND, directions_DM)
    along_NM = x_ND @ directions_DM
    worst_N = along_NM[:, int(statistics_M.argmax())]
    work.advance(0.5)
    order = np.argsort(worst_N, kind="stable")
    ends = [names[at] for at in order[:ENDS]], [names[at] for at in order[::-1][:ENDS]]
    asked = ask(store, names, on_progress=lambda share: work.advance(0.5 + share / 2))
    shares_N = shares(asked, catalogue)
    labels = of_labels([catalogue[name] for name in names], shares_N)
    known = shares_N[np.isfinite(shares_N)]
    return Measured(
        images=len(names),
        dimensions=x_ND.shape[1],
        report=report,
        bells=density(along_NM.reshape(-1)),
        worst=density(worst_N),
        worst_statistic=float(statistics_M.max()) / report.floor,
        ends=(store.get(ends[0]), store.get(ends[1])),
        labels=labels,
        overall=of_label("", known) if len(labels) > 1 else None,
        chance=chance(catalogue, names),
    )


def vectors_of(store: VectorStore, names: list[str]) -> Floats:
    """[N, D] in the order of `names`."""
    places = {name: at for at, name in enumerate(names)}
    found = np.zeros((len(names), store.info.dimension))
    for ids, _, vectors_BD in store.vectors():
        here = [at for at, name in enumerate(ids) if name in places]
        found[[places[ids[at]] for at in here]] = vectors_BD[here]
    return found


def standard(x_ND: Floats, output: str) -> Floats:
    """A projection as it is: it shall be N(0, I). An embedding has no scale of its own: mean 0 and a mean
    variance of 1, which leaves its shape and its uneven directions."""
    if output == "projection":
        return x_ND
    centred = x_ND - x_ND.mean(axis=0)
    return np.asarray(centred / max(float(np.sqrt(centred.var(axis=0).mean())), 1e-12))


def density(values: Floats) -> Floats:
    """Per standard deviation; what lies beyond BINS counts at its ends."""
    counts, _ = np.histogram(np.clip(values, BINS[0], BINS[-1]), BINS)
    return np.asarray(counts / len(values) / (BINS[1] - BINS[0]))


def of_labels(labels: list[str | None], shares_N: Floats) -> list[OfLabel]:
    """The weakest first."""
    named = np.array([label or "" for label in labels], object)
    found = [
        of_label(label, shares_N[(named == label) & np.isfinite(shares_N)])
        for label in sorted(set(named) - {""})
    ]
    return sorted((one for one in found if one.images), key=lambda one: one.share)


def of_label(label: str, shares: Floats) -> OfLabel:
    share = float(shares.mean()) if len(shares) else 0.0
    low, high = wilson(share, len(shares)) if len(shares) else (0.0, 1.0)
    return OfLabel(label, share, low, high, len(shares))
