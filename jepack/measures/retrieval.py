"""How well vectors find images of the same class, and which output search should use. numpy only.

N images, D dimensions. Every image asks among all others; with groups (a map block, a patient) those of
its own group are not asked, because finding them proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jepack.errors import ConfigError
from jepack.measures.codes import int8

CODES = ("float32", "int8", "binary")
DEFAULT_OUTPUT = "embedding"  # where nothing was measured; benchmarks/retrieval.py says why
MINIMUM = 64  # queries; with fewer a difference of outputs says nothing
DRAWS = 1000  # of the bootstrap over queries
BLOCK = 512  # queries at once


@dataclass(frozen=True)
class Found:
    """Means over the queries, 0..1."""

    recall_at_1: float  # the nearest image is of the same class
    recall_at_10: float  # one of the ten nearest is
    precision_at_10: float  # share of the ten nearest that are
    mean_average_precision: float  # over the whole ranking
    average_precision: npt.NDArray[np.float64]  # of each query
    chance: float  # mean average precision of a random order, about

    def to_json(self) -> dict[str, float]:
        names = ("recall_at_1", "recall_at_10", "precision_at_10", "mean_average_precision")
        return {name: round(float(getattr(self, name)), 4) for name in names}


def measure(
    x_ND: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    groups: npt.ArrayLike | None = None,
    codes: str = "float32",
    centre_D: npt.ArrayLike | None = None,
) -> Found:
    """Search by cosine (binary codes: by Hamming distance) for images of the query's class.

    `centre_D` is what binary codes are the signs about; without it the mean of `x_ND`. Queries whose
    class has no other image to find are left out.
    """
    y = np.asarray(labels)
    of = np.arange(len(y)) if groups is None else np.asarray(groups)
    x = encode(x_ND, codes, centre_D)
    rows: list[tuple[float, float, float, float]] = []
    chances = []
    for start in range(0, len(x), BLOCK):
        similar = x[start : start + BLOCK] @ x.T
        for offset, row in enumerate(similar):
            query = start + offset
            asked = of != of[query]
            same = (y == y[query])[asked]
            if not same.any():
                continue
            rows.append(figures(same[ranking(row[asked], query)]))
            chances.append(float(same.mean()))
    if not rows:
        raise ConfigError("retrieval needs two images of one class (outside one group); found none")
    table = np.array(rows)
    first, ten, share, precision = (float(value) for value in table.mean(axis=0))
    return Found(first, ten, share, precision, table[:, 3], float(np.mean(chances)))


def encode(x_ND: npt.ArrayLike, codes: str, centre_D: npt.ArrayLike | None = None) -> Any:
    """Rows of length 1 whose product is the similarity that these codes can tell, [N, D] float32."""
    x = np.asarray(x_ND, np.float64)
    if codes == "binary":
        centre = x.mean(axis=0) if centre_D is None else np.asarray(centre_D, np.float64)
        x = np.where(x >= centre, 1.0, -1.0)
    elif codes == "int8":
        x = int8(x).astype(np.float64)
    elif codes != "float32":
        raise ConfigError(f"codes must be {', '.join(CODES)}; found {codes!r}")
    return (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)).astype(np.float32)


def ranking(similar: npt.NDArray[Any], seed: int) -> npt.NDArray[np.int64]:
    """Nearest first; ties (binary codes have many) in an order that depends on the seed alone."""
    shuffled = np.random.default_rng(seed).permutation(len(similar))
    # Rounded: equal codes may differ in the last bit of the product.
    order = np.argsort(-np.round(similar[shuffled], 6), kind="stable")
    return np.asarray(shuffled[order])


def figures(same: npt.NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """(recall@1, recall@10, precision@10, average precision) of one ranking."""
    places = np.flatnonzero(same)
    precision = float((np.arange(1, len(places) + 1) / (places + 1)).mean())
    return float(same[0]), float(same[:10].any()), float(same[:10].mean()), precision


def choose(
    outputs: Mapping[str, npt.ArrayLike],
    labels: npt.ArrayLike,
    *,
    groups: npt.ArrayLike | None = None,
) -> dict[str, Any]:
    """Which output finds same-class images best, with the figures: what a manifest's `retrieval` holds.

    Another output than DEFAULT_OUTPUT is taken only when its mean average precision is higher with
    95 % confidence (bootstrap over queries). {} when the labels do not suffice: -1 is no label, and 64
    queries and two classes are needed.
    """
    y = np.asarray(labels)
    known = y >= 0
    if known.sum() < MINIMUM or len(np.unique(y[known])) < 2:
        return {}
    of = None if groups is None else np.asarray(groups)[known]
    try:
        scores = {n: measure(np.asarray(x)[known], y[known], groups=of) for n, x in outputs.items()}
    except ConfigError:
        return {}
    chosen, base = DEFAULT_OUTPUT, scores[DEFAULT_OUTPUT]
    if len(base.average_precision) < MINIMUM:
        return {}
    gains = {}
    for name, other in scores.items():
        if name != DEFAULT_OUTPUT:
            gains[name] = interval(other.average_precision - base.average_precision)
            best = scores[chosen].mean_average_precision
            if gains[name][0] > 0 and other.mean_average_precision > best:
                chosen = name
    return {
        "output": chosen,
        "basis": "measured",
        "queries": len(base.average_precision),
        "classes": len(np.unique(y[known])),
        "groups_apart": of is not None,
        "chance": round(base.chance, 4),
        "outputs": {name: value.to_json() for name, value in scores.items()},
        "gain_over_embedding": gains,  # 95 % interval of the mean average precision's difference
    }


def interval(differences: npt.NDArray[np.float64]) -> list[float]:
    """[low, high] of the mean: 95 % bootstrap over queries."""
    draws = np.random.default_rng(0).integers(0, len(differences), (DRAWS, len(differences)))
    means = differences[draws].mean(axis=1)
    return [round(float(np.quantile(means, share)), 4) for share in (0.025, 0.975)]
