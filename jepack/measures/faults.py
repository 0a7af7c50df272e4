"""Faults that a null knows the look of: what each does to held-out images, in a few numbers per fault.

A change that moves all images a little is found soonest by looking along the way it moves them.

N images, D projection dims, K known faults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from jepack.errors import DataError
from jepack.measures.null import FAULTS, Null
from jepack.measures.scoring import Floats, fault_scores

CERTAIN = 4.0  # standard errors by which some coordinate moves under a fault that is believed
FOLDS = 5
SHRINK = 0.5  # of the covariance, towards its diagonal
CENTRING = 4  # steps; clipped means have converged to 1e-4 standard deviations by then
LEAST_IMAGES = 16


def fitted_faults(
    null: Null, x_ND: Floats, faulted: Mapping[str, npt.ArrayLike]
) -> dict[str, npt.NDArray[Any]]:
    """The tensors `known` and `faults` of a null. `faulted` holds projections of the first images of `x`.

    Each fault's score is the linear discriminant between the images with and without it, with mean 0 and
    variance 1 over those without. A fault that moves nothing is left out.
    """
    moved = {name: moves(null, name, values, x_ND) for name, values in faulted.items()}
    moved = {name: values for name, values in moved.items() if believed(values)}
    if not moved:
        return {"known": np.zeros(0, np.int64)}
    away = null.away(x_ND)
    every = np.ones(len(x_ND), bool)
    faults = discriminants(away, moved, every)
    for _ in range(CENTRING):
        faults[:, -1] -= fault_scores(away, faults).mean(axis=0)
    return {"known": np.array([FAULTS.index(n) for n in moved]), "faults": faults}


def unseen_scores(null: Null, x_ND: Floats, faulted: Mapping[str, npt.ArrayLike]) -> Floats:
    """[N, K]: scores of each image by discriminants that other images gave.

    Over the images that gave it a discriminant varies less than over new ones, and replayed windows of
    these scores would call ordinary ones drift.
    """
    known = [] if null.known is None else [FAULTS[number] for number in null.known]
    moved = {name: moves(null, name, faulted[name], x_ND) for name in known}
    away, scores = null.away(x_ND), np.zeros((len(x_ND), len(moved)))
    fold = np.unique(x_ND, axis=0, return_inverse=True)[1].reshape(-1) % FOLDS  # copies together
    for number in range(FOLDS if moved else 0):
        faults = discriminants(away, moved, fold != number)
        scores[fold == number] = fault_scores(away[fold == number], faults)
    return scores


def discriminants(
    away_ND: Floats, moved: dict[str, Floats], used_N: npt.NDArray[np.bool_]
) -> Floats:
    """[K, D + 1]: of the used images."""
    around = away_ND[used_N]
    covariance = np.cov(around, rowvar=False).reshape(away_ND.shape[1], -1)
    covariance = (1 - SHRINK) * covariance + SHRINK * np.diag(np.diag(covariance))
    rows = []
    for values in moved.values():
        weights = np.linalg.solve(covariance, values[used_N[: len(values)]].mean(axis=0))
        rows.append(np.append(weights / (around @ weights).std(), 0))
    return np.array(rows)


def moves(null: Null, name: str, projections: npt.ArrayLike, x_ND: Floats) -> Floats:
    """[n, D]: by how much the fault moves each of the first images."""
    y = checked(name, projections, x_ND)
    return null.away(y) - null.away(x_ND[: len(y)])


def believed(moved_ND: Floats) -> bool:
    error = moved_ND.std(axis=0) / np.sqrt(len(moved_ND))
    return bool((np.abs(moved_ND.mean(axis=0)) > CERTAIN * np.maximum(error, 1e-12)).any())


def checked(name: str, projections: npt.ArrayLike, x_ND: Floats) -> Floats:
    y = np.asarray(projections, dtype=np.float64)
    fits = y.ndim == 2 and LEAST_IMAGES <= len(y) <= len(x_ND) and y.shape[1] == x_ND.shape[1]
    if name not in FAULTS or not fits or not np.isfinite(y).all():
        raise DataError(
            f"fault {name!r} with projections {y.shape}: must be one of {', '.join(FAULTS)}, with finite "
            f"projections of the first images of {x_ND.shape}, {LEAST_IMAGES} or more"
        )
    return y
