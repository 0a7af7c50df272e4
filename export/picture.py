"""The isotropy picture: covariance spectrum, slice statistics, norms, a row per output."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jepack.measures import isotropy
from jepack.terminal import drawing

FOUND, TARGET = "#20639b", "#d1495b"


def draw(outputs: dict[str, npt.NDArray[Any]], title: str, path: Path) -> None:
    """Write the picture. Blue is what was measured, red what N(0, I) would give."""
    figure = Figure(figsize=(11, 2.9 * len(outputs)), layout="constrained")
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(len(outputs), 3, squeeze=False)
    for row, (name, values) in zip(grid, outputs.items(), strict=True):
        x = np.asarray(values, np.float64)
        spectrum(row[0], x)
        slices(row[1], x)
        norms(row[2], x)
        row[0].set_ylabel(f"{name}\n{x.shape[1]} dimensions, {len(x)} samples")
    drawing.save(figure, path, dpi=110)


def spectrum(axes: Axes, x_ND: npt.NDArray[np.float64]) -> None:
    values = np.linalg.eigvalsh(np.cov(x_ND, rowvar=False).reshape(x_ND.shape[1], -1))[::-1]
    floor = max(values[0], 1e-300) * 1e-12
    axes.semilogy(np.arange(1, len(values) + 1), np.maximum(values, floor), color=FOUND)
    axes.axhline(1, color=TARGET, linestyle="--", linewidth=1)
    axes.set_title("covariance spectrum", fontsize=9)
    axes.set_xlabel(
        f"effective rank {isotropy.entropy_rank(np.maximum(values, 0)):.1f}", fontsize=8
    )


def slices(axes: Axes, x_ND: npt.NDArray[np.float64]) -> None:
    directions = isotropy.random_directions(x_ND.shape[1], isotropy.SLICES, 0)
    per_slice = isotropy.sliced_statistic(x_ND, directions)
    floor = isotropy.null_moments(directions)[0]
    axes.hist(np.log10(np.maximum(per_slice, 1e-3)), bins=30, color=FOUND)
    axes.axvline(math.log10(floor), color=TARGET, linestyle="--", linewidth=1)
    axes.set_title("statistic of 256 slices, log10", fontsize=9)
    axes.set_xlabel(f"mean {per_slice.mean():.2f}, at N(0, I) {floor:.2f}", fontsize=8)


def norms(axes: Axes, x_ND: npt.NDArray[np.float64]) -> None:
    dimensions = x_ND.shape[1]
    squared = (x_ND**2).sum(axis=1)
    axes.hist(squared, bins=40, density=True, color=FOUND)
    spread = math.sqrt(2 * dimensions)
    grid = np.linspace(max(dimensions - 4 * spread, 1e-3), dimensions + 5 * spread, 200)
    log_density = (
        (dimensions / 2 - 1) * np.log(grid / 2) - grid / 2 - math.lgamma(dimensions / 2)
    ) - math.log(2)
    axes.plot(grid, np.exp(log_density), color=TARGET, linestyle="--", linewidth=1)
    axes.set_title("squared norms and chi-square", fontsize=9)
    tail = float((isotropy.norm_p_values(x_ND) <= 0.01).mean())
    axes.set_xlabel(f"{tail:.1%} beyond the 99 % point", fontsize=8)
