"""Watching projections as they are served: are these still images like the held-out ones? numpy only.

N images, D projection dims, F features, W windows, C channels, B channels that look back, L looks.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jepack.errors import ConfigError
from jepack.measures.null import BLOCK, Null
from jepack.measures.scoring import Floats

IMAGES_PER_FALSE_ALARM = 1_000_000
MOST = 1e15
AT_ONCE = 256  # images whose features are held in memory


@dataclass(frozen=True, kw_only=True)
class Window:
    """The latest `length` images beside the null."""

    length: int  # images
    full: bool  # False: fewer have come, the figures are not known yet and are NaN
    distance: float  # mean squared difference of the characteristic functions
    distance_z: float  # of it, in standard deviations of ordinary windows
    mean_shift: float  # norm of the mean's difference, in standard deviations of the projection
    mean_shift_z: float
    surprise: float  # mean of -log p of the images; 1 for ordinary ones
    surprise_z: float
    scale: float  # variance about the window's own mean, 1 = the null's
    atypical: float  # share of images with a p-value of .05 or less
    # What older nulls do not know is NaN.
    size: float = (
        math.nan
    )  # how far mean and variance of the images' normal scores are from 0 and 1
    size_z: float = math.nan
    fault: float = math.nan  # mean score of the known fault that the images look most like
    fault_z: float = math.nan
    variance: float = math.nan  # mean squared difference of the coordinates' variances
    variance_z: float = math.nan
    change: float = math.nan  # mean shift from the images before, within the longest window
    change_z: float = math.nan  # the largest of what sets the window apart from them
    likeliest: str | None = None  # that fault, where its z alarms

    @property
    def z(self) -> float:
        """What the alarm looks at."""
        z = (getattr(self, f"{figure}_z") for figure in (*FIGURES.values(), "change"))
        return max((value for value in z if not math.isnan(value)), default=math.nan)


@dataclass(frozen=True, kw_only=True)
class DriftReport:
    """What a watcher knows now. Plain numbers: `to_json` is the body of GET /v1/drift."""

    images: int  # seen since the start
    alarm: bool  # does any window exceed the threshold at the latest look?
    alarms: int  # how often it began, after no window exceeded it for as long as the longest one is
    alarm_at: int | None  # images seen when it began last
    threshold: float  # z
    images_per_false_alarm: float  # ordinary images, at least, to one false alarm
    null_images: tuple[int, int]  # calibrating, setting thresholds: the same ones, or two halves
    windows: tuple[Window, ...]

    def to_json(self) -> dict[str, Any]:
        found = asdict(self)
        found["windows"] = [known(asdict(window) | {"z": window.z}) for window in self.windows]
        return found


def known(window: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: what a window that is not full does not know is null."""
    return {name: value if value == value else None for name, value in window.items()}


# What a channel is called in reports.
FIGURES = {
    "distance": "distance",
    "shift": "mean_shift",
    "surprise": "surprise",
    "size": "size",
    "fault": "fault",
    "variance": "variance",
}


class Sample(NamedTuple):
    """One Prometheus sample; `kind` is counter or gauge."""

    name: str
    kind: str
    help: str
    labels: dict[str, str]
    value: float


GAUGES = {
    "distance": "Mean squared difference of the window's characteristic function from the null's.",
    "distance_z": "The distance in standard deviations of ordinary windows.",
    "mean_shift": "Shift of the mean projection in standard deviations of the projection.",
    "mean_shift_z": "The shift in standard deviations of ordinary windows.",
    "surprise": "Mean of -log p of the window's images; 1 for ordinary ones.",
    "surprise_z": "The surprise in standard deviations of ordinary windows.",
    "size": "How far the norms' normal scores are from mean 0 and variance 1.",
    "size_z": "The size in standard deviations of ordinary windows.",
    "fault": "Mean score of the known fault the window looks most like.",
    "fault_z": "The score in standard deviations of ordinary windows.",
    "variance": "Mean squared difference of the coordinates' variances from the null's.",
    "variance_z": "That difference in standard deviations of ordinary windows.",
    "change": "Shift of the mean projection from the images before the window.",
    "change_z": "How far the window is from the images before it, beside ordinary windows.",
    "scale": "Variance of the projection over the null's.",
    "atypical": "Share of images with a conformal p-value of .05 or less.",
}


def samples(report: DriftReport, labels: dict[str, str] | None = None) -> Iterator[Sample]:
    """The report as Prometheus samples, those of one name together; `labels` (a model, say) go on each.

    Windows that are not full give none.
    """
    own = labels or {}
    yield Sample("jepack_drift_images_total", "counter", "Images watched.", own, report.images)
    yield Sample("jepack_drift_alarms_total", "counter", "Alarms begun.", own, report.alarms)
    yield Sample("jepack_drift_alarm", "gauge", "1 while images drift.", own, int(report.alarm))
    yield Sample("jepack_drift_threshold", "gauge", "z that alarms.", own, report.threshold)
    for name, text in GAUGES.items():
        for window in report.windows:
            if window.full and not math.isnan(getattr(window, name)):
                mine = {**own, "window": str(window.length)}
                yield Sample(f"jepack_drift_{name}", "gauge", text, mine, getattr(window, name))


class Watcher:
    """Sums over the latest images in windows of several lengths, and the alarm on all of them.

    Takes projections in batches of any size, from several threads; what it finds does not depend on the
    batches. It holds 256 sums of 16 images each, no image and no projection (5.5 MB at 64 dimensions).
    `images_per_false_alarm` is the promise: ordinary images alarm at most once in so many, all windows
    and looks taken together, if they come as independently as the held-out ones were drawn. Bursts of
    near-copies are drift by this measure.
    """

    def __init__(
        self, null: Null, *, images_per_false_alarm: float = IMAGES_PER_FALSE_ALARM
    ) -> None:
        if not 1 <= images_per_false_alarm <= MOST:
            raise ConfigError(
                f"images per false alarm must be 1 to {MOST:g}, found {images_per_false_alarm}"
            )
        self.null = null
        self.images_per_false_alarm = images_per_false_alarm
        self.threshold = null.threshold(images_per_false_alarm)
        self._lock = threading.Lock()
        self._lengths = null.windows // BLOCK  # blocks
        width = len(null.summed(null.features(np.zeros((1, null.dimensions)))))
        self._ring = np.zeros((int(self._lengths.max()), width))  # sums of blocks
        self._sums = np.zeros((len(self._lengths), width))  # of the windows
        self._part = np.zeros(width)  # of the block that is not whole yet
        self._images = self._alarms = 0
        self._alarm = False
        self._alarm_at: int | None = None  # images when the latest alarm began
        self._over_at: int | None = None  # and when any window was above the threshold last

    def add(self, x_ND: npt.ArrayLike) -> Floats:
        """Take projections [N, D]. Gives z [L, W, C + B] of each look that fell due.

        NaN for windows not full, and for what looks back until the longest is. DataError for another width or
        values that are not finite; then nothing of the batch is taken.
        """
        x = self.null.checked(x_ND)
        looks = []
        with self._lock:
            for start in range(0, len(x), AT_ONCE):
                features = self.null.features(x[start : start + AT_ONCE])
                while len(features):
                    taken = features[: BLOCK - self._images % BLOCK]
                    features = features[len(taken) :]
                    self._part += self.null.summed(taken)
                    self._images += len(taken)
                    if self._images % BLOCK == 0:
                        looks.append(self._look())
        channels = len(self.null.channels) + len(self.null.looking_back)
        return np.stack(looks) if looks else np.zeros((0, len(self._lengths), channels))

    def _look(self) -> Floats:
        """A block is whole: move the windows on by it, and judge them."""
        blocks, size = self._images // BLOCK, len(self._ring)
        leaving = self._ring[(blocks - 1 - self._lengths) % size]  # zeros where none was yet
        self._sums += self._part - leaving
        self._ring[(blocks - 1) % size] = self._part
        self._part = np.zeros_like(self._part)
        z = self._z()
        over = bool((z > self.threshold).any())  # NaN is not
        if over:
            # Windows fill and empty one after the other: what they see of one event is one alarm.
            if self._over_at is None or self._images - self._over_at > self.null.windows[-1]:
                self._alarms, self._alarm_at = self._alarms + 1, self._images
            self._over_at = self._images
        self._alarm = over
        return z

    def _means(self) -> Floats:
        """[W, S]: over the windows, of what Null.summed gives."""
        return self._sums / self.null.windows[:, None]

    def _z(self) -> Floats:
        blocks = self._images // BLOCK
        back = (self._lengths < self._lengths[-1]) & (self._lengths[-1] <= blocks)
        means = self._means()
        z = self.null.z_scores(self.null.judged(means, means[-1], back))
        z[self._lengths > blocks] = np.nan
        return z

    def report(self) -> DriftReport:
        """What is known now; cheap enough for every scrape."""
        with self._lock:
            means, z = self._means(), self._z()
            means = self.null.features_of(means)
            windows = tuple(self._window(place, means, z[place]) for place in range(len(z)))
            return DriftReport(
                images=self._images,
                alarm=self._alarm,
                alarms=self._alarms,
                alarm_at=self._alarm_at,
                threshold=self.threshold,
                images_per_false_alarm=self.images_per_false_alarm,
                null_images=(int(self.null.images[0]), int(self.null.images[1])),
                windows=windows,
            )

    def _window(self, place: int, means_WF: Floats, z_C: Floats) -> Window:
        means_F, length = means_WF[place], int(self.null.windows[place])
        full = bool(self._lengths[place] <= self._images // BLOCK)
        names = [FIGURES[channel] for channel in self.null.channels]
        figures = dict(zip(names, map(float, self.null.statistics(means_F)), strict=True))
        figures |= self.null.figures(means_F)
        if not full:
            figures = dict.fromkeys(figures, math.nan)
        figures |= {f"{name}_z": float(z) for name, z in zip(names, z_C, strict=False)}
        back = z_C[len(names) :]
        if back.size and not np.isnan(back).all():
            longest = int(self.null.windows[-1])
            moved = (means_F - means_WF[-1])[self.null.blocks[0]] * longest / (longest - length)
            figures["change"] = float(np.sqrt((moved**2).sum() / self.null.spread))
            figures["change_z"] = float(np.nanmax(back))
        told = full and figures.get("fault_z", math.nan) > self.threshold
        likeliest = self.null.likeliest(means_F) if told else None
        return Window(length=length, full=full, likeliest=likeliest, **figures)
