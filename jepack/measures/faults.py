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
from jepack.measures.null import Floats, Null, fault_scores

# Null files hold places in this list: only ever add to its end.
FAULTS = ("darker", "brighter", "flatter", "blurred", "noisy", "compressed", "grey", "red for blue")
CERTAIN = 2.5  # standard errors beyond which a coordinate is believed to move
LEAST_IMAGES = 16


def fitted_faults(
    null: Null, x_ND: Floats, faulted: Mapping[str, npt.ArrayLike]
) -> dict[str, npt.NDArray[Any]]:
    """The tensors `known` and `faults` of a null. `faulted` holds projections of the first images of `x`.

    Each fault's score is the linear discriminant of the distance from the mean and its square (a fault may
    widen or narrow without moving), all coordinates taken for independent, as whitened ones nearly are. It
    has mean 0 and variance 1 over the images without the fault. A fault that moves nothing is left out.
    """
    away = null.away(x_ND)
    plain = np.concatenate([away, away**2], axis=1)
    variance = np.maximum(plain.var(axis=0), 1e-12)
    known, rows = [], []
    for name, projections in faulted.items():
        y = np.asarray(projections, dtype=np.float64)
        if name not in FAULTS or y.ndim != 2 or not LEAST_IMAGES <= len(y) <= len(x_ND):
            raise DataError(f"fault {name!r} with projections {y.shape} of {len(x_ND)} images")
        if y.shape[1] != x_ND.shape[1] or not np.isfinite(y).all():
            raise DataError(
                f"fault {name!r}: projections {y.shape} must be finite, as wide as the null's"
            )
        there = null.away(y)
        moved = np.concatenate([there, there**2], axis=1) - plain[: len(y)]
        error = moved.std(axis=0) / np.sqrt(len(y))
        mean = moved.mean(axis=0)
        weights = np.where(np.abs(mean) > CERTAIN * error, mean, 0) / variance
        raw = plain @ weights
        if raw.std() > 1e-9:
            weights /= raw.std()
            known.append(FAULTS.index(name))
            rows.append(np.append(weights, -(plain @ weights).mean()))
    if not rows:
        return {"known": np.zeros(0, np.int64)}
    faults = np.array(rows)
    for _ in range(4):  # the clipped scores have mean 0
        faults[:, -1] -= fault_scores(away, faults).mean(axis=0)
    moments = np.concatenate([null.moments[:4], np.zeros_like(null.moments[:1])])
    return {"known": np.array(known), "faults": faults, "moments": moments}
