"""Making a null: half of the held-out images calibrates it, the other half is replayed as a server sees it.

N images, D projection dims, M directions, T knots, F features, W windows, C channels, R runs, K looks.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from jepack.errors import DataError
from jepack.measures.isotropy import random_directions
from jepack.measures.null import BLOCK, CHANNELS, RUN, WINDOWS, Floats, Null

DIRECTIONS = 64
KNOTS = (0.5, 1.0, 1.5, 2.0)
MINIMUM = 64  # images; with fewer no p-value of a half lies below .03
MOST = 2048  # images; more add time and little else
RUNS = 128


def fit_null(x_ND: npt.ArrayLike, *, runs: int = RUNS, seed: int = 0) -> Null:
    """The null of held-out projections [N, D]. DataError below 64 images, or when they do not vary."""
    x = np.asarray(x_ND, dtype=np.float64)
    if x.ndim != 2 or len(x) < MINIMUM or not np.isfinite(x).all():
        raise DataError(
            f"a null needs {MINIMUM} or more finite projections [N, D], found shape {x.shape}"
        )
    rng = np.random.default_rng([seed, 7])
    x = x[rng.permutation(len(x))[:MOST]].astype(np.float32).astype(np.float64)
    first, second = x[::2], x[1::2]
    null, centre = calibrated(first, len(second), seed)
    found = replay(null, second, centre, runs, rng)
    null = replace(null, moments=moments(found))
    highest = null.z_scores(found).max(axis=(1, 2, 3))
    return Null.of(replace(null, highest=np.sort(highest)).tensors())


def calibrated(x_ND: Floats, others: int, seed: int) -> tuple[Null, Floats]:
    """What half of the images says by itself, and the mean features [F] of ordinary images."""
    directions = random_directions(x_ND.shape[1], DIRECTIONS, seed)
    scale = (x_ND @ directions).std(axis=0)
    if not (scale > 1e-12).all():
        raise DataError(f"a null needs projections that vary, found {len(x_ND)} alike")
    waves = np.zeros((len(KNOTS), DIRECTIONS))
    null = Null(
        directions=directions,
        scale=scale,
        knots=np.array(KNOTS),
        cosines=waves,
        sines=waves,
        mean=x_ND.mean(axis=0),
        spread=np.asarray(x_ND.var(axis=0).sum()),
        scores=np.sort((x_ND**2).sum(axis=1).astype(np.float32)),
        windows=np.array(WINDOWS),
        moments=np.zeros((len(CHANNELS), len(WINDOWS), 3)),
        highest=np.zeros(0),
        images=np.array([len(x_ND), others]),
    )
    centre = null.features(x_ND).mean(axis=0)
    # These images' own p-values are no sample of unseen ones', which have each rank alike.
    centre[-1] = -np.log(np.arange(1, len(x_ND) + 2) / (len(x_ND) + 1)).mean()
    cosines, sines = centre[: 2 * waves.size].reshape(2, *waves.shape)
    return replace(null, cosines=cosines, sines=sines), centre


def null_where_possible(x_ND: npt.ArrayLike, *, seed: int = 0) -> Null | None:
    """`fit_null`; None where there are too few projections, or they are alike or not finite."""
    try:
        return fit_null(x_ND, seed=seed)
    except DataError:
        return None


def replay(
    null: Null, x_ND: Floats, centre_F: Floats, runs: int, rng: np.random.Generator
) -> Floats:
    """[R, K, W, C]: every window at every look of runs of ordinary images.

    The images are drawn from `x` moved to the null's centre, and from another resample of it in each run,
    so small that runs stray from the centre as independent sets of images do: the null is itself only a
    sample, and every long window of a server sees how far off it is.
    """
    first, second = (int(count) for count in null.images)
    features = null.features(x_ND)
    features = (features - features.mean(axis=0) + centre_F).astype(np.float32)
    size = first * second // (first + second)  # 1 / size = 1 / first + 1 / second
    before = max(WINDOWS) // BLOCK  # looks until all windows are full
    blocks, looks = before + RUN // BLOCK, RUN // BLOCK
    found = np.zeros((runs, looks, len(WINDOWS), len(CHANNELS)), np.float32)
    for run in range(runs):
        domain = rng.integers(second, size=size)
        drawn = domain[rng.integers(size, size=(blocks, BLOCK))]
        places = drawn + second * np.arange(blocks)[:, None]
        counts = np.bincount(places.reshape(-1), minlength=blocks * second)
        sums = counts.reshape(blocks, second).astype(np.float32) @ features
        total = np.zeros((blocks + 1, sums.shape[1]), np.float32)
        total[1:] = np.cumsum(sums, axis=0, dtype=np.float64)
        for place, length in enumerate(WINDOWS):
            start = before + 1 - length // BLOCK
            window = total[before + 1 :] - total[start : start + looks]
            found[run, :, place] = null.statistics(window / length)
    return found


def moments(replayed_RKWC: Floats) -> Floats:
    """[C, W, 3]: mean, standard deviation and skewness of each window's figures."""
    x = replayed_RKWC.reshape(-1, *replayed_RKWC.shape[2:]).astype(np.float64)
    mean = x.mean(axis=0)
    deviation = np.maximum(x.std(axis=0), 1e-12)
    skew = (((x - mean) / deviation) ** 3).mean(axis=0)
    return np.stack([mean, deviation, skew], axis=-1).transpose(1, 0, 2)
