"""What the probed encoders have in common with the labels, to be looked at: a map and neighbours of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jepack.decoding import Pixels
from jepack.files import new_file
from training.commands.probe.scoring import Floats
from training.data import Ints

MAPPED = 1_000  # test images in each map: t-SNE takes seconds for so many
QUERIES, NEIGHBOURS = 4, 5
COLOURS = 20  # of classes; further ones take them again, and no name
SAME, OTHER = "#059669", "#dc2626"


@dataclass(frozen=True)
class Seen:
    """What one encoder makes of the images: `features` [N, E], `linear` its accuracy and interval."""

    name: str
    features: Floats
    linear: tuple[float, float, float]


def draw(
    path: Path, classes: Sequence[str], images: Pixels, y: Ints, test: Ints, seen: Sequence[Seen]
) -> None:
    """A column for each encoder: t-SNE of test images in the colours of their classes, then queries and their
    nearest images of all others, framed by whether the class is the same. The ending names the format."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    generator = np.random.default_rng(0)
    mapped = np.sort(generator.permutation(test)[:MAPPED])
    queries = generator.permutation(mapped)[:QUERIES]
    figure = Figure(figsize=(4.4 * len(seen), 4.7 + 0.75 * QUERIES), layout="constrained")
    FigureCanvasAgg(figure)
    shown = [number for number in np.unique(y[mapped]) if number < COLOURS]
    marks = [
        Line2D(
            [], [], ls="", marker="o", ms=5, color=colormaps["tab20"](number), label=classes[number]
        )
        for number in shown
    ]
    figure.suptitle(
        f"t-SNE of {len(mapped):,} test images; framed green, a neighbour is of the query's class",
        fontsize=10,
    )
    figure.legend(handles=marks, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    for column, one in zip(figure.subfigures(1, len(seen), squeeze=False)[0], seen, strict=True):
        above, below = column.subfigures(2, 1, height_ratios=(4, 0.75 * QUERIES))
        low, mid, high = one.linear
        above.suptitle(f"{one.name}\nlinear {mid:.3f} ({low:.3f} to {high:.3f})", fontsize=9)
        axes = above.subplots()
        places = plane(one.features[mapped])
        axes.scatter(*places.T, s=7, lw=0, alpha=0.8, c=colormaps["tab20"](y[mapped] % COLOURS))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        grid = below.subplots(QUERIES, 1 + NEIGHBOURS, squeeze=False)
        for row, query in zip(grid, queries, strict=False):
            for cell, number in zip(row, [query, *nearest(one.features, query)], strict=True):
                frame = "black" if number == query else SAME if y[number] == y[query] else OTHER
                show(cell, images[number], frame)
        for row in grid[len(queries) :]:
            for cell in row:
                cell.set_axis_off()
    with new_file(path) as made:
        figure.savefig(made, format=path.suffix[1:].lower(), dpi=100)


def plane(x: Floats) -> Floats:
    """[N, 2] by t-SNE of directions; by place alone where there are too few for it."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    reduced = PCA(min(50, *unit.shape), random_state=0).fit_transform(unit)
    if len(x) < 10:
        return np.pad(reduced, ((0, 0), (0, 2)))[:, :2]
    perplexity = min(30.0, (len(x) - 1) / 3)
    found: Floats = TSNE(perplexity=perplexity, init="random", random_state=0).fit_transform(
        reduced
    )
    return found


def nearest(x: Floats, query: int) -> Ints:
    """The images next to one, by cosine."""
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    alike = unit @ unit[query]
    alike[query] = -np.inf
    found: Ints = np.argsort(-alike, kind="stable")[:NEIGHBOURS]
    return found


def show(axes: Any, pixels: Any, frame: str) -> None:
    """One image [S, S, C] with a coloured frame; of other numbers of channels the first."""
    coloured = pixels.shape[-1] == 3
    axes.imshow(pixels if coloured else pixels[..., 0], cmap=None if coloured else "gray")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=frame, linewidth=2)
