"""What many images of an index find: the ten nearest of each, and how often they share its label.

Q images that ask, K neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.scale import BATCH, K, Nearest, Progress
from app.store import VectorStore
from jepack.measures import unit

Z = 1.959964  # 95 % of a normal law


@dataclass(frozen=True)
class Asked:
    """The neighbours of each image that asked, nearest first."""

    names: list[str]  # [Q] ids
    nearest: list[list[str]]  # [Q][K] ids; the image itself is not among them


def ask(
    store: VectorStore,
    names: Sequence[str],
    among: Collection[str] | None = None,
    on_progress: Progress = lambda share: None,
) -> Asked:
    """Search with the images `names` among those of `among`, or among all; two passes over the index."""
    wanted, allowed = {name: at for at, name in enumerate(names)}, among and set(among)
    asking_QD = np.zeros((len(names), store.info.dimension), np.float32)
    count, done = store.count(), 0
    for ids, _, vectors_BD in store.vectors(BATCH):
        here = [at for at, name in enumerate(ids) if name in wanted]
        asking_QD[[wanted[ids[at]] for at in here]] = vectors_BD[here]
        done += len(ids)
        on_progress(min(1.0, done / count / 4))
    asking_QD, best, done = unit(asking_QD), Nearest(len(names)), 0
    for ids, _, vectors_BD in store.vectors(BATCH):
        kept = [at for at, name in enumerate(ids) if allowed is None or name in allowed]
        own = [ids[at] for at in kept]
        similar = asking_QD @ unit(vectors_BD[kept]).T
        itself = [(wanted[name], at) for at, name in enumerate(own) if name in wanted]
        for row, column in itself:
            similar[row, column] = -np.inf
        if own:
            best.add(similar, own)
        done += len(ids)
        on_progress(min(1.0, 0.25 + 0.75 * done / count))
    nearest = [
        [name for name, near in zip(*row, strict=True) if np.isfinite(near)]
        for row in zip(best.marks, best.similar, strict=True)
    ]
    return Asked(list(names), nearest)


def shares(asked: Asked, labels: Mapping[str, str | None]) -> npt.NDArray[np.float64]:
    """[Q]: the share of the nearest that have the image's label; NaN for an image without one."""
    found = np.full(len(asked.names), np.nan)
    for at, (name, nearest) in enumerate(zip(asked.names, asked.nearest, strict=True)):
        own = labels.get(name)
        if own is not None and nearest:
            found[at] = np.mean([labels.get(one) == own for one in nearest])
    return found


def chance(labels: Mapping[str, str | None], names: Sequence[str]) -> float:
    """The mean share that neighbours taken at random would have, 0..1."""
    counts: dict[str | None, int] = {}
    for label in labels.values():
        counts[label] = counts.get(label, 0) + 1
    asked = [label for name in names if (label := labels.get(name)) is not None]
    others = max(1, len(labels) - 1)
    return float(np.mean([(counts[label] - 1) / others for label in asked])) if asked else 0.0


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a mean of n values of 0..1, never narrower than theirs can be: Wilson's of a share.

    Careful: the values of one image's ten neighbours spread less than yes and no do.
    """
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def sample(names: Sequence[str], most: int) -> list[str]:
    """At most `most` of them, the same ones every time."""
    if len(names) <= most:
        return list(names)
    picked = np.random.default_rng(0).choice(len(names), most, replace=False)
    return [names[at] for at in np.sort(picked)]


__all__ = ["Asked", "K", "ask", "chance", "sample", "shares", "wilson"]
