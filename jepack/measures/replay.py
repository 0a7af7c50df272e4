"""Making a null: held-out images calibrate it, and are replayed as a server would see them.

N images, D projection dims, M directions, T knots, F features, W windows, C channels, K known faults,
R runs, L looks, B channels that look back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from jepack.errors import DataError
from jepack.measures.faults import CENTRING, fitted_faults, unseen_scores
from jepack.measures.isotropy import random_directions
from jepack.measures.null import BLOCK, FARTHEST, RUN, WINDOWS, Null
from jepack.measures.scoring import Floats

DIRECTIONS = 64
KNOTS = (0.5, 1.0, 1.5, 2.0)
MINIMUM = 64  # images; with fewer no p-value lies below .015
MOST = 2048  # images; more add time and little else
RUNS = 128


def fit_null(
    x_ND: npt.ArrayLike,
    *,
    faulted: Mapping[str, npt.ArrayLike] | None = None,
    gaussian: bool = False,
    looks_back: bool = True,
    runs: int = RUNS,
    seed: int = 0,
) -> Null:
    """The null of held-out projections [N, D]. DataError below 64 images, or when they do not vary.

    `faulted`: by the name of a fault (of `FAULTS`), projections of the first images of `x` with it.
    `gaussian`: the bundle promises N(0, I), so what cannot be told from it is taken to be it, without the
    error that a mean of N images has. `looks_back=False`: as nulls were before they knew variances.
    """
    x = np.asarray(x_ND, dtype=np.float64)
    if x.ndim != 2 or len(x) < MINIMUM or not np.isfinite(x).all():
        raise DataError(
            f"a null needs {MINIMUM} or more finite projections [N, D], found shape {x.shape}"
        )
    rng = np.random.default_rng([seed, 7])
    kept = rng.permutation(len(x))[:MOST]
    single = x.astype(np.float32).astype(np.float64)
    null = centred(single[kept], gaussian, seed)
    null = replace(null, **fitted_faults(null, single, faulted or {}))
    ordinary = single[kept]
    if looks_back:
        null = replace(null, squares=squares(null, ordinary))
    # Each image's p-value among the others: these calibrated, and a new image is not one of them.
    features = null.features(ordinary, null.at_least(ordinary) / len(ordinary))
    features[:, null.blocks[2]] = unseen_scores(null, single, faulted or {})[kept]
    null, centre = centre_of(null, features, gaussian)
    if gaussian:  # the mean may have moved
        null = replace(null, **fitted_faults(null, single, faulted or {}))
        if looks_back:
            null = replace(null, squares=squares(null, ordinary))
            features[:, null.blocks[1]] = null.spreads(null.away(ordinary))
    found = replay(null, features, centre, runs, rng)
    own = len(null.channels)
    null = replace(null, moments=moments(found[..., :own]))
    if looks_back:
        null = replace(null, changes=moments(found[:, :, :-1, own:]))
    highest = np.nanmax(null.z_scores(found), axis=(1, 2, 3))
    return Null.of(replace(null, highest=np.sort(highest)).tensors())


def squares(null: Null, x_ND: Floats) -> Floats:
    """[3, D]: see Null. Standard deviation of each coordinate, and what `Null.near` makes of its square."""
    away = null.away(x_ND)
    deviation = np.maximum(np.sqrt((away**2).mean(axis=0)), 1e-12)
    # Under `near` a coordinate that never varies has squares of 0.
    square = np.clip(away / deviation, -FARTHEST, FARTHEST) ** 2
    return np.stack([deviation, square.mean(axis=0), np.maximum(square.std(axis=0), 1e-6)])


def centred(x_ND: Floats, gaussian: bool, seed: int) -> Null:
    """What single images say, or N(0, I) where it is promised. Waves and moments are yet to come."""
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
        moments=np.zeros((0, len(WINDOWS), 3)),
        highest=np.zeros(0),
        images=np.array([len(x_ND), len(x_ND)]),
        known=np.zeros(0, np.int64),
    )
    if gaussian:
        width = x_ND.shape[1]
        return replace(
            null, scale=np.ones(DIRECTIONS), mean=np.zeros(width), spread=np.asarray(float(width))
        )
    for _ in range(CENTRING):
        null = replace(null, mean=null.mean + null.away(x_ND).mean(axis=0))
    return null


@dataclass(frozen=True)
class Centre:
    """Where the mean features [F] of ordinary images lie, and how a null of other such images would put it.

    `promised` is what N(0, I) gives, NaN where nothing is promised. Each block of columns is drawn from its
    mean towards that, the more the less the mean's distance from it exceeds what chance makes of it (James
    and Stein, 1961): at no distance the centre has no error at all.
    """

    truth: Floats  # [F] the mean of the replayed domain
    promised: Floats  # [F]
    blocks: tuple[slice, ...]
    chance: tuple[float, ...]  # squared distance that chance gives the mean of a block

    def of(self, means_F: Floats) -> Floats:
        found = means_F.copy()
        for block, chance in zip(self.blocks, self.chance, strict=True):
            away = means_F[block] - self.promised[block]
            kept = max(1 - chance / max(float(away @ away), 1e-300), 0.0)
            found[block] = self.promised[block] + kept * away
        return found


def centre_of(null: Null, features_NF: Floats, gaussian: bool) -> tuple[Null, Centre]:
    """The null with its centre, and the domain that its replay supposes.

    Under the promise that domain lies as far from N(0, I) as the images allow (two standard deviations), so
    that what they cannot tell apart from N(0, I) does not alarm either.
    """
    mean, wave = features_NF.mean(axis=0), null.cosines.size
    promised = np.full(len(mean), np.nan)
    centre = Centre(mean, promised, (), ())
    if gaussian:
        phi = np.repeat(np.exp(-(null.knots**2) / 2), null.cosines.shape[1])
        promised[: 3 * wave] = 0  # sines, and the mean that follows them
        promised[:wave] = phi
        blocks = (slice(0, 2 * wave), slice(2 * wave, 2 * wave + null.dimensions))
        chance, truth = [], mean.copy()
        for block in blocks:
            around = features_NF[:, block] - mean[block]
            covariance = around.T @ around / len(around) ** 2  # of the mean
            chance.append(float(np.trace(covariance)))
            away = mean[block] - promised[block]
            distance = max(float(away @ away), 1e-300)
            allowed = max(distance - chance[-1], 0) + 2 * math.sqrt(2 * (covariance**2).sum())
            truth[block] = promised[block] + away * math.sqrt(allowed / distance)
        centre = Centre(truth, promised, blocks, tuple(chance))
    found = centre.of(mean)
    cosines, sines = found[: 2 * wave].reshape(2, *null.cosines.shape)
    moved = found[2 * wave : 2 * wave + null.dimensions]
    return replace(null, cosines=cosines, sines=sines, mean=null.mean + moved), centre


def replay(
    null: Null, features_NF: Floats, centre: Centre, runs: int, rng: np.random.Generator
) -> Floats:
    """[R, L, W, C + B]: every window at every look of runs of ordinary images.

    Each run has another null, of images drawn anew: a null is itself only a sample of its domain, and every
    long window of a server sees how far off it is.
    """
    count = len(features_NF)
    mean = features_NF.mean(axis=0)
    own = centre.of(mean)
    own[2 * null.cosines.size :][: null.dimensions] = 0  # counted from the null's mean
    features = (features_NF - mean).astype(np.float32)
    images = max(WINDOWS) + RUN - BLOCK  # all windows are full at the first look
    channels = len(null.channels) + len(null.looking_back)
    found = np.zeros((runs, RUN // BLOCK, len(WINDOWS), channels), np.float32)
    for run in range(runs):
        sample = features[rng.integers(count, size=count)].mean(axis=0, dtype=np.float64)
        moved = centre.truth - centre.of(centre.truth + sample) + own
        stream = features[rng.integers(count, size=images)]
        found[run] = null.along(stream, moved.astype(np.float32))
    return found


def moments(replayed_RLWC: Floats) -> Floats:
    """[C, W, 3]: mean, standard deviation and skewness of each window's figures."""
    x = replayed_RLWC.reshape(-1, *replayed_RLWC.shape[2:]).astype(np.float64)
    mean = x.mean(axis=0)
    deviation = np.maximum(x.std(axis=0), 1e-12)
    skew = (((x - mean) / deviation) ** 3).mean(axis=0)
    return np.stack([mean, deviation, skew], axis=-1).transpose(1, 0, 2)


def null_where_possible(
    x_ND: npt.ArrayLike,
    *,
    faulted: Mapping[str, npt.ArrayLike] | None = None,
    gaussian: bool = False,
    seed: int = 0,
) -> Null | None:
    """`fit_null`; None where there are too few projections, or they are alike or not finite."""
    try:
        return fit_null(x_ND, faulted=faulted, gaussian=gaussian, seed=seed)
    except DataError:
        return None
