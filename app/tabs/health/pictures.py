"""Pictures of the Health tab as SVG inside the page: they take its colours, light or dark."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from app.cards import safe
from app.tabs.health.measuring import BINS, Floats, OfLabel

WIDE, HIGH, FOOT, LEFT = (
    360,
    170,
    22,
    30,
)  # px of a picture; room for what stands below and beside it
MOST_BARS = 64  # of a spectrum
MOST_LABELS = 40
LOWEST = 1e-3  # of the mean variance; smaller ones are drawn there


def figure(title: str, picture: str, meaning: str) -> str:
    """A picture with its meaning in a sentence."""
    return (
        f'<figure class="jp-health-figure"><b>{safe(title)}</b>{picture}'
        f"<figcaption>{safe(meaning)}</figcaption></figure>"
    )


def svg(inside: str, said: str) -> str:
    return (
        f'<svg class="jp-health-svg" viewBox="0 0 {WIDE} {HIGH}" role="img" '
        f'aria-label="{safe(said)}">{inside}</svg>'
    )


def text(x: float, y: float, words: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{safe(words)}</text>'


def bell(density: Floats, said: str) -> str:
    """How the images lie along a direction, in BINS, beside the Gaussian's curve."""
    middles = (BINS[1:] + BINS[:-1]) / 2
    curve = np.exp(-(middles**2) / 2) / math.sqrt(2 * math.pi)
    top, base = max(float(density.max()), 0.45), HIGH - FOOT
    wide = (WIDE - 2 * 8) / len(middles)

    def high(value: float) -> float:
        return value / top * (base - 8)

    bars = "".join(
        f'<rect class="jp-health-bar" x="{8 + at * wide:.1f}" y="{base - high(value):.1f}" '
        f'width="{wide - 1:.1f}" height="{high(value):.1f}"/>'
        for at, value in enumerate(density)
    )
    points = " ".join(
        f"{8 + (at + 0.5) * wide:.1f},{base - high(value):.1f}" for at, value in enumerate(curve)
    )
    ticks = "".join(
        text(8 + (WIDE - 16) * (at + 4) / 8, HIGH - 6, str(at)) for at in range(-4, 5, 2)
    )
    line = f'<polyline class="jp-health-curve" points="{points}"/>'
    return svg(f"{bars}{line}{axis()}{ticks}", said)


def axis() -> str:
    base = HIGH - FOOT
    return f'<line class="jp-health-axis" x1="8" x2="{WIDE - 8}" y1="{base}" y2="{base}"/>'


def spectrum(values: Sequence[float], dimensions: int, said: str) -> str:
    """Variances of the principal directions over their mean, on a scale of tens; a dashed line where all
    are equal."""
    shown = np.array(values[:MOST_BARS]) / max(sum(values) / dimensions, 1e-300)
    highest = max(float(shown.max()), 10.0)
    base = HIGH - FOOT

    def high(value: float) -> float:
        span = math.log10(highest / LOWEST)
        return (base - 8) * math.log10(max(value, LOWEST) / LOWEST) / span

    wide = (WIDE - LEFT - 8) / len(shown)
    bars = "".join(
        f'<rect class="jp-health-bar" x="{LEFT + at * wide:.1f}" y="{base - high(value):.1f}" '
        f'width="{max(wide - 1, 0.8):.1f}" height="{high(value):.1f}"/>'
        for at, value in enumerate(shown)
    )
    level = base - high(1)
    even = f'<line class="jp-health-even" x1="{LEFT}" x2="{WIDE - 8}" y1="{level:.1f}" y2="{level:.1f}"/>'
    marks = "".join(
        text(LEFT - 4, base - high(value) + 4, f"{value:g}", "end")
        for value in (0.01, 0.1, 1, 10, 100)
        if value <= highest
    )
    feet = text(LEFT, HIGH - 6, "1st", "start") + text(WIDE - 8, HIGH - 6, f"{len(shown)}th", "end")
    return svg(f"{bars}{even}{axis()}{marks}{feet}", said)


def labels(found: Sequence[OfLabel], chance: float) -> str:
    """A bar for each label, its 95 % interval, and a line where chance is; the weakest first."""
    rows = "".join(
        f'<li data-label="{safe(one.label)}" data-share="{one.share:.4f}"><span>{safe(one.label)}</span>'
        f'<span class="jp-health-track"><i style="width:{100 * one.share:.1f}%"></i>'
        f'<em style="left:{100 * one.low:.1f}%;width:{100 * (one.high - one.low):.1f}%"></em>'
        f'<u style="left:{100 * chance:.1f}%"></u></span>'
        f"<span>{one.share:.0%} <small>({one.low:.0%}–{one.high:.0%}, {one.images:,})</small></span></li>"
        for one in found[:MOST_LABELS]
    )
    more = len(found) - MOST_LABELS
    rest = f"<p>… and {more} more labels, all found better than these.</p>" if more > 0 else ""
    return f'<ul class="jp-health-labels">{rows}</ul>{rest}'
