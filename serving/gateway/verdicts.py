"""What a watcher found as people, programs and Prometheus read it.

W windows.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from jepack.measures import DriftReport, Sample
from jepack.measures.null import ATYPICAL
from jepack.measures.scoring import Floats

POINTS = 256  # of the history


class History:
    """The windows' z since the start in at most POINTS points, each the largest since the point before."""

    def __init__(self, windows: int) -> None:
        self._points: list[tuple[int, Floats]] = []
        self._looks = 1  # that make a point
        self._seen = 0
        self._peak_W: Floats = np.full(windows, np.nan)

    def add(self, images: int, z_W: Floats) -> None:
        self._seen += 1
        self._peak_W = np.fmax(self._peak_W, z_W)
        if self._seen % self._looks:
            return
        self._points.append((images, self._peak_W))
        self._peak_W = np.full_like(z_W, np.nan)
        if len(self._points) == POINTS:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [(later, np.fmax(a, b)) for (_, a), (later, b) in pairs]
            self._looks *= 2

    def to_json(self) -> dict[str, Any]:
        """`images` watched at each point and `z` of each window then; null where it was not full."""
        rows = [
            [None if np.isnan(z) else round(float(z), 3) for z in z_W] for _, z_W in self._points
        ]
        return {"images": [images for images, _ in self._points], "z": rows}


def families(found: Iterable[Sample]) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
    """Samples as prometheus_client takes them: those of one name together."""
    by_name: dict[str, list[Sample]] = {}
    for one in found:
        by_name.setdefault(one.name, []).append(one)
    for name, (first, *others) in by_name.items():
        kind = CounterMetricFamily if first.kind == "counter" else GaugeMetricFamily
        made = kind(name, first.help, labels=list(first.labels))
        for one in (first, *others):
            made.add_metric(list(one.labels.values()), one.value)
        yield made


def iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def state_of(report: DriftReport) -> str:
    """calm, alarm, or unknown while no window is full."""
    if report.alarm:
        return "alarm"
    return "calm" if report.windows[0].full else "unknown"


def promise_of(report: DriftReport) -> str:
    return (
        f"ordinary images alarm once in {report.images_per_false_alarm:,.0f} at most, if they come as "
        "independently as the held-out ones were drawn"
    )


def verdict_of(report: DriftReport, since: str) -> str:
    """A sentence for people."""
    full = [window for window in report.windows if window.full]
    shortest = report.windows[0].length
    if not full:
        return f"cannot tell yet: {report.images:,} of the first {shortest} images have come"
    worst = max(full, key=lambda window: window.z)
    figures = f"largest z {worst.z:.1f}, of {worst.length:,} images; {report.threshold:.1f} alarms"
    known = "the held-out images of the bundle"
    if not report.alarm:
        return f"calm: the latest {full[-1].length:,} images look like {known} ({figures})"
    if worst.z <= report.threshold:
        told = f"it clears when no window was above the threshold for {shortest} images"
        return f"alarm since {since}, but no window is above the threshold now ({figures}); {told}"
    if worst.z == worst.change_z:
        known = f"those before them, to {full[-1].length:,} images back"
    return (
        f"alarm since {since}: the latest {worst.length:,} images are unlike {known} ({figures}). "
        f"Their mean is shifted by {worst.mean_shift:.2f} standard deviations, their variance is "
        f"{worst.scale:.2f} times the ordinary one, {worst.atypical:.0%} are atypical "
        f"({ATYPICAL:.0%} of ordinary ones)"
        + (f". They look {worst.likeliest}" if worst.likeliest else "")
    )
