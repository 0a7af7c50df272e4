"""The report picture of `jepack drift`: z of the windows as images come, and the p-values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jepack.measures import Comparison, Null
from jepack.measures.null import ATYPICAL, BLOCK
from jepack.names import shown
from jepack.terminal import drawing

FOUND, LIMIT = "#20639b", "#d1495b"


def draw(null: Null, found: Comparison, title: str, path: Path) -> None:
    """Write the picture. Blue is what was found, darker for longer windows; red what alarms."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    verdict = f"drift after {found.alarm_at:,} images" if found.drift else "ordinary"
    figure.suptitle(f"{shown(title)}: {verdict}", fontsize=10, parse_math=False)
    left, right = figure.subplots(1, 2, width_ratios=[5, 3])
    windows(left, null, found)
    p_values(right, found)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    drawing.save(figure, path, dpi=110)


def windows(axes: Any, null: Null, found: Comparison) -> None:
    from matplotlib import colormaps

    seen = BLOCK * np.arange(1, len(found.looks_KW) + 1)
    shades = colormaps["Blues"](np.linspace(0.35, 1, len(null.windows)))
    for place, length in enumerate(null.windows):
        if length <= found.images:
            z = found.looks_KW[:, place]
            axes.plot(
                seen,
                z,
                color=shades[place],
                marker="." if len(seen) < 20 else "",
                label=f"{length:,}",
            )
    axes.axhline(found.threshold, color=LIMIT, linestyle="--", linewidth=1)
    axes.text(seen[-1], found.threshold, "alarm ", color=LIMIT, fontsize=8, ha="right", va="bottom")
    axes.set_title("largest z of each window; ordinary images stay about 0", fontsize=9)
    axes.set_xlabel("images watched", fontsize=8)
    axes.legend(title="window, images", frameon=False, fontsize=7, title_fontsize=7, loc="best")


def p_values(axes: Any, found: Comparison) -> None:
    shares, edges = np.histogram(found.p_values_N, bins=20, range=(0, 1))
    axes.stairs(shares / found.images, edges, fill=True, color=FOUND)
    axes.axhline(ATYPICAL, color=LIMIT, linestyle="--", linewidth=1)
    axes.set_title("atypicality: share of images by p-value", fontsize=9)
    axes.set_xlabel(
        f"{found.atypical:.1%} at {ATYPICAL} or less; dashed: ordinary images", fontsize=8
    )
