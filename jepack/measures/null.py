"""What held-out images look like to an encoder, in some thousand numbers: the null that drift is judged by.

No image and no embedding is kept: means of cosines and sines along fixed directions (the characteristic
function of the projection), sorted norms, and what windows of ordinary images gave. numpy only.

N images, D projection dims, M directions, T knots, F features, W windows, C channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from jepack.errors import DataError

Floats = npt.NDArray[np.floating[Any]]

BLOCK = 16  # images between two looks at the windows
WINDOWS = (64, 128, 256, 512, 1024, 2048, 4096)  # images
RUN = 8192  # images of one replayed run
# What a window is judged by: how far its characteristic function and its mean are from the null's, and how
# atypical its images are on average. The first sees any change of shape, the second a weak shift of all
# images, the third a few strange ones among many.
CHANNELS = ("distance", "shift", "surprise")
ATYPICAL = 0.05  # p-value at which an image counts as atypical
LEAST_SKEW = 0.25
REACH = 3.0  # standard deviations of the projection, all dimensions together
TAIL_FROM = 1 / 8  # share of replayed runs; a quantile that fewer exceed says little


@dataclass(frozen=True, kw_only=True, eq=False)
class Null:
    """The ordinary, as half of the held-out images showed it, and how far the other half strays from it.

    The first half calibrates (everything down to `scores`), the second, which the first never saw, says
    what ordinary windows and runs give (the rest). Made by `jepack.measures.fit_null`.
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

    @property
    def dimensions(self) -> int:
        return int(self.directions.shape[0])

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """As they are kept: float32, and int64 where they count images."""
        return {
            field.name: np.asarray(getattr(self, field.name), order="C") for field in fields(self)
        }

    @classmethod
    def of(cls, tensors: dict[str, npt.NDArray[Any]]) -> Null:
        """Of what `tensors` gave; jepack.bundle checks what comes from a file."""
        whole = ("windows", "images")
        found: dict[str, Any] = {
            name: np.asarray(value, np.int64 if name in whole else np.float32)
            for name, value in tensors.items()
        }
        return cls(**found)

    def p_values(self, x_ND: npt.ArrayLike) -> Floats:
        """[N]: how ordinary each projection is. At most a share p of ordinary images has a value <= p.

        A conformal p-value: the share of the calibrating images, the new one counted among them, whose
        squared norm is at least as large. Uniform on (0, 1] for unseen images of the domain, in steps of
        1 / (n + 1); images with equal scores all get the larger value, so ties only make it careful.
        """
        x = self.checked(x_ND)
        # In float32, as the scores are kept: else an image would not tie with its own copy.
        most = np.finfo(np.float32).max
        scores = np.minimum((x**2).sum(axis=1), most).astype(np.float32)
        at_least = len(self.scores) - np.searchsorted(self.scores, scores, side="left")
        return np.asarray((1 + at_least) / (1 + len(self.scores)))

    def features(self, x_ND: npt.ArrayLike) -> Floats:
        """[N, F]: what a window sums up of each image; `statistics` and `figures` read the means."""
        x = self.checked(x_ND)
        along = (x @ self.directions) / self.scale
        angles = (along[:, None, :] * self.knots[:, None]).reshape(len(x), -1)
        p = self.p_values(x)
        # One image far out must not move the mean of a window: beyond REACH it counts as at REACH.
        away = x - self.mean
        reach = REACH * np.sqrt(float(self.spread))
        away *= np.minimum(1, reach / np.maximum(np.linalg.norm(away, axis=1), 1e-300))[:, None]
        others = np.stack([(away**2).sum(axis=1), p <= ATYPICAL, -np.log(p)], axis=1)
        return np.concatenate([np.cos(angles), np.sin(angles), away, others], axis=1)

    def statistics(self, means_F: Floats) -> Floats:
        """[..., C]: the channels of windows, from means [..., F] of their features."""
        wave = self.cosines.size
        centre = np.concatenate([self.cosines.reshape(-1), self.sines.reshape(-1)])
        difference = means_F[..., : 2 * wave] - centre
        distance = np.einsum("...f,...f->...", difference, difference) / (2 * wave)
        moved = means_F[..., 2 * wave : -3]
        shift = np.einsum("...d,...d->...", moved, moved) / self.spread
        return np.stack([distance, shift, means_F[..., -1]], axis=-1)

    def z_scores(self, statistics_WC: Floats) -> Floats:
        """[..., W, C]: how far above ordinary windows, in standard deviations of a normal law.

        The figures of ordinary windows are taken for gamma laws with the moments that replay gave
        (Wilson-Hilferty); a skewness below .25 is raised to it, for squares are never less skewed and a
        law too light in its tail would alarm too often.
        """
        mean, deviation, skew = np.transpose(self.moments.astype(np.float64), (2, 1, 0))
        shape = 4 / np.maximum(skew, LEAST_SKEW) ** 2
        ratio = np.maximum(1 + (statistics_WC - mean) / (deviation * np.sqrt(shape)), 0)
        return np.asarray((np.cbrt(ratio) - (1 - 1 / (9 * shape))) * np.sqrt(9 * shape))

    def figures(self, means_F: Floats) -> dict[str, float]:
        """What people read of one window: mean shift, scale and share of atypical images."""
        shift, squared = means_F[-3 - self.dimensions : -3], float(means_F[-3])
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
