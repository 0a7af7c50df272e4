"""A set of images beside a null, all at once: what `jepack drift` tells. numpy only.

N images, D projection dims, L looks, W windows, C channels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jepack.errors import DataError
from jepack.measures.drift import Watcher
from jepack.measures.null import Null
from jepack.measures.scoring import Floats

SHOWN = 12  # most atypical images


@dataclass(frozen=True)
class Comparison:
    """A set of images beside a null."""

    images: int
    drift: bool
    alarm_at: int | None  # images watched when a window first exceeded the threshold
    threshold: float  # z
    windows: dict[int, float]  # length: its largest z over all looks and channels
    mean_shift: float  # of all images, in standard deviations of the projection
    scale: float  # variance over the null's
    atypical: float  # share of images with a p-value of .05 or less; about .05 of ordinary ones
    likeliest: str | None  # known fault that they look most like, where that alarms
    most_atypical: list[tuple[int, float]]  # rows and p-values
    looks_KW: Floats  # largest z of the channels, NaN where a window was not full
    p_values_N: Floats

    def to_json(self) -> dict[str, Any]:
        left_out = ("looks_KW", "p_values_N")
        return {name: value for name, value in asdict(self).items() if name not in left_out}


def compare(
    null: Null, x_ND: npt.ArrayLike, *, chance: float, in_order: bool = False
) -> Comparison:
    """Watch the images in a fixed random order, or as they stand: ordinary ones alarm with `chance` at most.

    DataError when they are too few for the shortest window.
    """
    x = null.checked(x_ND)
    shortest, count = int(null.windows[0]), len(x)
    if count < shortest:
        raise DataError(
            f"{count} images, drift is looked for in {shortest} or more: give more of them"
        )
    order = np.arange(count) if in_order else np.random.default_rng(0).permutation(count)
    watcher = Watcher(null, images_per_false_alarm=max(count / chance, 1))
    looks_LWC = watcher.add(x[order])
    looks_KW = np.fmax.reduce(looks_LWC, axis=2)  # NaN where nothing is known
    report = watcher.report()
    full = [int(w) for w in null.windows if w <= count]
    p_values = null.p_values(x)
    scores = (x**2).sum(axis=1)
    strangest = np.argsort(-scores, kind="stable")[:SHOWN]
    fault_told = False
    if "fault" in null.channels:
        z_LW = looks_LWC[..., null.channels.index("fault")]
        fault_told = bool(np.nanmax(z_LW) > report.threshold)
    means = null.features(x).mean(axis=0)
    figures = null.figures(means)
    return Comparison(
        images=count,
        drift=report.alarms > 0,
        alarm_at=report.alarm_at,
        threshold=report.threshold,
        windows={w: float(np.nanmax(looks_KW[:, i])) for i, w in enumerate(full)},
        **figures,
        likeliest=null.likeliest(means) if fault_told else None,
        most_atypical=[(int(row), float(p_values[row])) for row in strangest],
        looks_KW=looks_KW,
        p_values_N=p_values,
    )
