"""How single figures become scores: normal ones, those of known faults, those of windows. numpy only.

N images, D projection dims, K known faults.
"""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

LEAST_SKEW = 0.25
LOUDEST = 4.0  # standard deviations of a fault's score: one image says no more


def gamma_z(x: Floats, mean: Floats, deviation: Floats, skew: Floats) -> Floats:
    """How far above ordinary figures, in standard deviations of a normal law.

    Ordinary figures are taken for gamma laws with these moments (Wilson-Hilferty); a skewness below .25 is
    raised to it, for squares are never less skewed and a law too light in its tail would alarm too often.
    """
    shape = 4 / np.maximum(skew, LEAST_SKEW) ** 2
    ratio = np.maximum(1 + (x - mean) / (deviation * np.sqrt(shape)), 0)
    return np.asarray((np.cbrt(ratio) - (1 - 1 / (9 * shape))) * np.sqrt(9 * shape))


@lru_cache(maxsize=4)
def pairs_of(width: int) -> npt.NDArray[np.int64]:
    """Places of the pairs of different coordinates, each once, in a matrix of all products laid flat."""
    first, second = np.triu_indices(width, 1)
    return np.asarray(first * width + second)


@lru_cache(maxsize=1)
def normal_quantiles() -> tuple[Floats, Floats]:
    """Probabilities and the normal quantiles at them, which `normal_of` interpolates."""
    p = (np.arange(4096) + 0.5) / 4096
    return p, np.array([NormalDist().inv_cdf(float(value)) for value in p])


def normal_of(p_N: Floats) -> Floats:
    """Normal scores: uniform values become N(0, 1)."""
    return np.interp(p_N, *normal_quantiles())


def fault_scores(away_ND: Floats, faults_KF: Floats) -> Floats:
    """[N, K]: how much each image looks as if it had each fault; about N(0, 1) without it."""
    scores = away_ND @ faults_KF[:, :-1].T + faults_KF[:, -1]
    return np.clip(scores, -LOUDEST, LOUDEST)
