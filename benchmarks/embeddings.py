"""A picture of what an encoder has learnt: spectra, and a map of its embeddings.

    jepack train runs/data/solar --recipe quickstart --preset industrial --out runs/solar
    python -m benchmarks.embeddings runs/solar/bundle runs/data/solar --column kind

Left: the share of variance in each principal direction, of the three outputs and of the same network
untrained. Then a t-SNE map of the held-out images by label, and by a manifest column.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from jepack import bundle as bundles
from jepack.encoder import load_encoder
from jepack.sources import find_images
from training.commands.probe import opened, read_images
from training.data import column
from training.watch import features, patch_features

COLOURS = ("#2563eb", "#f59e0b", "#dc2626", "#059669", "#7c3aed", "#0891b2", "#db2777", "#6b7280")


def shares(x: Any) -> Any:
    """Share of the variance in each principal direction, largest first."""
    values = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2
    return values / values.sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--column", help="manifest column for a second map")
    parser.add_argument("--most", type=int, default=1500, help="images in the map")
    parser.add_argument("--out", type=Path, default=Path("docs/img/embeddings.png"))
    options = parser.parse_args()
    bundle = bundles.load(options.bundle)
    folder = options.data if options.data.is_dir() else options.data.parent
    held_out = set(bundle.manifest["provenance"]["data"]["held_out"])
    files = [
        file
        for file in find_images(options.data, parts=True)
        if file.path.relative_to(folder).as_posix() in held_out
    ][: options.most]
    images = read_images(files, bundle.preprocessing)
    encoder, calibration = load_encoder(bundle)
    embedding, raw = features(encoder, images, bundle.preprocessing)
    patches = patch_features(encoder, images, bundle.preprocessing)
    untrained = features(opened("random", bundle, 0)[0], images, bundle.preprocessing)[0]
    groups = {"label": [str(file.label) for file in files]}
    if options.column:
        groups[options.column] = column(files, options.column)

    figure = Figure(figsize=(4.6 * (1 + len(groups)), 4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 1 + len(groups))
    lines = {
        "embedding": (embedding, "#db2777", "-"), "patch": (patches, "#0891b2", "-"),
        "projection, calibrated": (calibration.apply(raw), "#7c3aed", "-"),
        "embedding, untrained": (untrained, "#9ca3af", "--"),
    }  # fmt: skip
    for name, (x, colour, style) in lines.items():
        if x is not None:
            found = shares(np.asarray(x, np.float64))
            places = np.arange(1, len(found) + 1)
            panels[0].plot(places, found, style, color=colour, label=name, lw=1.4)
    panels[0].set(
        xscale="log", yscale="log", ylim=(1e-6, 1), title="Share of variance by direction",
        xlabel="direction, largest first",
    )  # fmt: skip
    panels[0].legend(frameon=False, fontsize=8)
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    reduced = PCA(min(50, *unit.shape), random_state=0).fit_transform(unit)
    place = TSNE(perplexity=30, init="pca", random_state=0).fit_transform(reduced)
    for axes, (title, values) in zip(panels[1:], groups.items(), strict=True):
        for number, value in enumerate(sorted(set(values))):
            chosen = np.array([one == value for one in values])
            axes.scatter(
                *place[chosen].T, s=9, alpha=0.75, lw=0, label=f"{value} ({chosen.sum()})",
                color=COLOURS[number % len(COLOURS)],
            )  # fmt: skip
        axes.set(title=f"t-SNE of {len(files)} held-out embeddings, by {title}")
        axes.set(xticks=[], yticks=[])
        axes.legend(frameon=False, fontsize=8, markerscale=2)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=110)
    print(f"{options.out}: {options.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
