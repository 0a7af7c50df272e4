"""What held-out images look like to an encoder, in some thousand numbers: the null that drift is judged by.

No image and no embedding is kept: means of cosines and sines along fixed directions (the characteristic
function of the projection), sorted norms, and what windows of ordinary images gave. numpy only.

N images, D projection dims, M directions, T knots, F features, P pairs of dims, S = F + P, W windows,
C channels, B channels that look back, K known faults, R runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from jepack.errors import DataError
from jepack.measures.scoring import Floats, fault_scores, gamma_z, normal_of, pairs_of

WHOLE = ("windows", "images", "known")  # tensors of whole numbers

BLOCK = 16  # images between two looks at the windows
WINDOWS = (64, 128, 256, 512, 1024, 2048, 4096)  # images
RUN = 8192  # images of one replayed run
LOOKS_AT_ONCE = 32  # looks whose means are held in memory
# What a window is judged by: how far its characteristic function and its mean are from the null's, how
# atypical its images are on average, whether their norms are spread as they should be (smaller ones count
# too), and how much they look like held-out images with a known fault. The first sees any change of shape,
# the second a weak shift of all images, the third a few strange ones among many, the fifth the weakest
# traces of what it knows, the last whether each coordinate is spread as it should be (a strange group among
# ordinary images, another model). A null has the first three of them, four, or more: `Null.channels`.
CHANNELS = ("distance", "shift", "surprise", "size", "fault", "variance")
LEAST_CHANNELS = 3  # of nulls from before `size`
# Beside the null, whose images are few, a window is judged by the images before it in the longest window:
# how far its mean, its variances and its covariances are from theirs, and its likeness to known faults.
# These have no error of a null, and see what began lately.
LOOKING_BACK = ("shift", "variance", "covariance", "fault")
PAIRED = 64  # coordinates, the first ones, whose covariances are watched
# Null files hold places in this list: only ever add to its end.
FAULTS = ("darker", "brighter", "flatter", "blurred", "noisy", "compressed", "grey", "red for blue")
ATYPICAL = 0.05  # p-value at which an image counts as atypical
REACH = 3.0  # standard deviations of the projection, all dimensions together
FARTHEST = 4.0  # standard deviations of a coordinate, where variances and covariances are looked at
TAIL_FROM = 1 / 8  # share of replayed runs; a quantile that fewer exceed says little
TAIL = 3  # columns at the end of the features: distance from the mean, atypical or not, -log p


@dataclass(frozen=True, kw_only=True, eq=False)
class Null:
    """The ordinary, as held-out images showed it, and how far windows of such images stray from it.

    Made by `jepack.measures.fit_null`, of all held-out images. Older ones (without `known`) were calibrated
    by one half of the images, and the other half said what windows and runs give.
    """

    directions: Floats  # [D, M] unit columns
    scale: Floats  # [M] standard deviation along each direction
    knots: Floats  # [T] in units of 1 / scale
    cosines: Floats  # [T, M] mean of cos(knot * x @ direction / scale)
    sines: Floats  # [T, M]
    mean: Floats  # [D] of the projections
    spread: Floats  # [] mean squared distance from `mean`
    scores: Floats  # [n] squared norms of the projections, ascending
    windows: npt.NDArray[np.int64]  # [W] lengths in images, ascending
    moments: Floats  # [C, W, 3] mean, standard deviation, skewness of an ordinary window's figures
    highest: Floats  # [R] the largest z of each replayed run of RUN images, ascending
    images: npt.NDArray[np.int64]  # [2] images that calibrate, images that set the thresholds
    known: npt.NDArray[np.int64] | None = None  # [K] places in jepack.measures.FAULTS
    faults: Floats | None = None  # [K, D + 1] weights of the distance from the mean, and of 1
    # Newer nulls only, both or none:
    squares: Floats | None = (
        None  # [3, D] deviation of a coordinate; mean, deviation of its square, see `near`
    )
    changes: Floats | None = (
        None  # [B, W - 1, 3] as `moments`, of windows beside the images before them
    )

    @property
    def dimensions(self) -> int:
        return int(self.directions.shape[0])

    @property
    def held_out(self) -> int:
        """Images it rests on."""
        return int(self.images.sum() if self.known is None else self.images[0])

    @property
    def channels(self) -> tuple[str, ...]:
        """What a window is judged by, beside the null."""
        known = CHANNELS[: LEAST_CHANNELS if self.known is None else LEAST_CHANNELS + 1]
        faults = () if self.faults is None else ("fault",)
        return (*known, *faults, *(() if self.squares is None else ("variance",)))

    @property
    def looking_back(self) -> tuple[str, ...]:
        """And beside the images before it."""
        if self.squares is None:
            return ()
        return LOOKING_BACK[: -1 if self.faults is None else None]

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """As they are kept: float32, and int64 where they count or name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {n: np.asarray(value, order="C") for n, value in found.items() if value is not None}

    @classmethod
    def of(cls, tensors: dict[str, npt.NDArray[Any]]) -> Null:
        """Of what `tensors` gave; jepack.bundle checks what comes from a file."""
        found: dict[str, Any] = {
            name: np.asarray(value, np.int64 if name in WHOLE else np.float32)
            for name, value in tensors.items()
        }
        return cls(**found)

    def p_values(self, x_ND: npt.ArrayLike) -> Floats:
        """[N]: how ordinary each projection is. At most a share p of ordinary images has a value <= p.

        A conformal p-value: the share of the calibrating images, the new one counted among them, whose
        squared norm is at least as large. Uniform on (0, 1] for unseen images of the domain, in steps of
        1 / (n + 1); images with equal scores all get the larger value, so ties only make it careful.
        """
        return np.asarray((1 + self.at_least(self.checked(x_ND))) / (1 + len(self.scores)))

    def at_least(self, x_ND: Floats) -> npt.NDArray[np.int64]:
        """[N]: calibrating images with a squared norm as large or larger."""
        # In float32, as the scores are kept: else an image would not tie with its own copy.
        most = np.finfo(np.float32).max
        scores = np.minimum((x_ND**2).sum(axis=1), most).astype(np.float32)
        return len(self.scores) - np.searchsorted(self.scores, scores, side="left")

    def features(self, x_ND: npt.ArrayLike, p_N: Floats | None = None) -> Floats:
        """[N, F]: what a window sums up of each image; `statistics` and `figures` read the means.

        `p_N` replaces the p-values, for images that calibrated and must not be counted with themselves.
        """
        x = self.checked(x_ND)
        along = (x @ self.directions) / self.scale
        angles = (along[:, None, :] * self.knots[:, None]).reshape(len(x), -1)
        p = self.p_values(x) if p_N is None else p_N
        away = self.away(x)
        normal = normal_of(p - 0.5 / (1 + len(self.scores)))
        columns = [np.cos(angles), np.sin(angles), away]
        if self.squares is not None:
            columns.append(self.spreads(away))
        if self.faults is not None:
            columns.append(fault_scores(away, self.faults))
        ends = np.stack(
            [normal, normal**2, (away**2).sum(axis=1), p <= ATYPICAL, -np.log(p)], axis=1
        )
        return np.concatenate([*columns, ends], axis=1)

    def away(self, x_ND: Floats) -> Floats:
        """[N, D] from the mean. One image far out must not move the mean of a window: beyond REACH it counts
        as at REACH."""
        away = x_ND - self.mean
        reach = REACH * np.sqrt(float(self.spread))
        return np.asarray(
            away * np.minimum(1, reach / np.maximum(np.linalg.norm(away, axis=1), 1e-300))[:, None]
        )

    def spreads(self, away_ND: Floats) -> Floats:
        """[N, D]: squared distances from the mean, with mean 0 and variance 1 over the null's images."""
        assert self.squares is not None
        return np.asarray((self.near(away_ND) ** 2 - self.squares[1]) / self.squares[2])

    def near(self, away_ND: Floats) -> Floats:
        """[..., n]: distances of the first n coordinates in standard deviations, FARTHEST at most.

        Else one coordinate of one image says more of a window's variance than all others.
        """
        assert self.squares is not None
        deviation = self.squares[0][: away_ND.shape[-1]].astype(away_ND.dtype)
        return np.clip(away_ND / deviation, -FARTHEST, FARTHEST)

    @property
    def blocks(self) -> tuple[slice, slice, slice]:
        """Where the features hold distances from the mean [D], `spreads` [D or 0] and fault scores [K]."""
        mean = 2 * self.cosines.size
        spreads = mean + self.dimensions
        faults = spreads + (0 if self.squares is None else self.dimensions)
        return slice(mean, spreads), slice(spreads, faults), slice(faults, -TAIL - 2)

    def summed(self, features_BNF: Floats) -> Floats:
        """[..., F + P]: sums over images [..., N, F] of their features, and of the products of each pair of
        coordinates, in standard deviations, which looking back at covariances needs."""
        sums = features_BNF.sum(axis=-2)
        if self.squares is None:
            return sums
        near = self.near(features_BNF[..., self.blocks[0]][..., :PAIRED])
        products = np.matmul(near.swapaxes(-1, -2), near)
        flat = products.reshape(*products.shape[:-2], -1)
        return np.concatenate([sums, np.take(flat, pairs_of(near.shape[-1]), axis=-1)], axis=-1)

    @property
    def pairs(self) -> int:
        """P of `summed`."""
        return len(pairs_of(min(self.dimensions, PAIRED)))

    def features_of(self, sums_S: Floats) -> Floats:
        """[..., F] of what `summed` gave, or of means of it."""
        return sums_S if self.squares is None else sums_S[..., : sums_S.shape[-1] - self.pairs]

    def statistics(self, means_F: Floats) -> Floats:
        """[..., C]: the channels of windows, from means [..., F] of their features."""
        wave = self.cosines.size
        centre = np.concatenate([self.cosines.reshape(-1), self.sines.reshape(-1)])
        difference = means_F[..., : 2 * wave] - centre
        distance = np.einsum("...f,...f->...", difference, difference) / (2 * wave)
        level, power = means_F[..., -TAIL - 2], means_F[..., -TAIL - 1] - 1
        found = {
            "distance": distance,
            "surprise": means_F[..., -1],
            "size": level**2 + power**2 / 2,
            **self.moved(means_F),
        }
        return np.stack([found[name] for name in self.channels], axis=-1)

    def backwards(self, difference_S: Floats) -> Floats:
        """[..., B]: the channels that look back, from means over windows less those over the longest one (of
        what `summed` gave). That is the difference from the images before, but for a factor."""
        found = self.moved(self.features_of(difference_S))
        products = difference_S[..., difference_S.shape[-1] - self.pairs :]
        covariance = np.einsum("...p,...p->...", products, products)
        found["covariance"] = covariance / max(self.pairs, 1)
        return np.stack([found[name] for name in self.looking_back], axis=-1)

    def moved(self, difference_F: Floats) -> dict[str, Floats]:
        """[...]: what means of features, or differences of them, say of mean, variances and known faults."""
        mean, spreads = difference_F[..., self.blocks[0]], difference_F[..., self.blocks[1]]
        found = {"shift": np.einsum("...d,...d->...", mean, mean) / self.spread}
        if self.squares is not None:
            found["variance"] = np.einsum("...d,...d->...", spreads, spreads) / self.dimensions
        if self.faults is not None:
            found["fault"] = self.likeness(difference_F).max(axis=-1)
        return found

    def likeness(self, means_F: Floats) -> Floats:
        """[..., K]: mean score of the known faults, in standard deviations of an ordinary image."""
        return means_F[..., self.blocks[2]]

    def likeliest(self, means_F: Floats) -> str | None:
        """The known fault that a window looks most like; None where none is known."""
        if self.known is None or self.faults is None:
            return None
        return FAULTS[int(self.known[int(self.likeness(means_F).argmax())])]

    def along(self, features_NF: Floats, moved_F: Floats | float = 0.0) -> Floats:
        """[L, W, C + B]: the channels at every look of a stream of images, from when all windows are full.

        Nothing lies before the longest window: what looks back is NaN there.
        """
        blocks = len(features_NF) // BLOCK
        sums = self.summed(features_NF[: blocks * BLOCK].reshape(blocks, BLOCK, -1))
        total = np.zeros((blocks + 1, sums.shape[1]), np.float32)
        so_far = np.zeros(sums.shape[1])
        for number, block in enumerate(
            sums, start=1
        ):  # five times as fast as cumsum along this axis
            so_far += block
            total[number] = so_far
        lengths = (self.windows // BLOCK).tolist()
        found = []
        for first in range(lengths[-1], blocks + 1, LOOKS_AT_ONCE):  # what fits into a cache
            ends = total[first : first + LOOKS_AT_ONCE]
            means = [
                (ends - total[first - length : first - length + len(ends)])
                / np.float32(length * BLOCK)
                for length in lengths
            ]
            looks = [
                self.judged(one, means[-1], length < lengths[-1], moved_F)
                for one, length in zip(means, lengths, strict=True)
            ]
            found.append(np.stack(looks, axis=1))
        return np.concatenate(found)

    def judged(
        self, means_S: Floats, longest_S: Floats, looks_back: Any, moved_F: Floats | float = 0.0
    ) -> Floats:
        """[..., C + B]: all channels of windows, those that look back NaN unless `looks_back`.

        `longest_S` are the means over the longest window, `moved_F` is added to what is held beside the null.
        """
        own = self.statistics(self.features_of(means_S) + moved_F)
        if not self.looking_back:
            return own
        back = self.backwards(means_S - longest_S)
        return np.concatenate([own, np.where(np.asarray(looks_back)[..., None], back, np.nan)], -1)

    def z_scores(self, statistics_WC: Floats) -> Floats:
        """[..., W, C + B]: how far above ordinary windows, in standard deviations of a normal law."""
        moments = self.moments
        if self.changes is not None:
            back = np.pad(self.changes, ((0, 0), (0, 1), (0, 0)), constant_values=1)  # its z is NaN
            moments = np.concatenate([moments, back])
        return gamma_z(statistics_WC, *np.transpose(moments.astype(np.float64), (2, 1, 0)))

    def figures(self, means_F: Floats) -> dict[str, float]:
        """What people read of one window: mean shift, scale and share of atypical images."""
        shift, squared = means_F[self.blocks[0]], float(means_F[-TAIL])
        spread = float(self.spread)
        # The distance from the null's mean holds the shift too; taken out, what is left is spread.
        return {
            "mean_shift": float(np.sqrt((shift**2).sum() / spread)),
            "scale": float(np.sqrt(max(squared - float((shift**2).sum()), 0.0) / spread)),
            "atypical": float(means_F[-2]),
        }

    def threshold(self, images_per_false_alarm: float) -> float:
        """The z that ordinary images exceed, in any window and channel, once in so many images.

        Read off the replayed runs where enough of them exceed it; beyond, a normal tail continues them.
        """
        wanted = RUN / images_per_false_alarm  # alarms of a run
        chance = max(1 - math.exp(-wanted), TAIL_FROM)
        z = float(np.quantile(self.highest, 1 - chance))
        if chance > TAIL_FROM:
            return z
        normal = NormalDist()
        return -normal.inv_cdf(normal.cdf(-z) * wanted / -math.log1p(-TAIL_FROM))

    def checked(self, x_ND: npt.ArrayLike) -> Floats:
        x = np.asarray(x_ND, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != self.dimensions:
            raise DataError(
                f"the null is of projections with {self.dimensions} dimensions, found shape {x.shape}. "
                "Embed the images with the same bundle"
            )
        if not np.isfinite(x).all():
            bad = int((~np.isfinite(x)).any(axis=1).sum())
            raise DataError(f"{bad} of {len(x)} projections hold NaN or infinity. Leave them out")
        return x
