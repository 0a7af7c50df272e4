"""What a pooled embedding leaves out: ways to pool the maps of a frozen encoder, by the same probes.

    python -m benchmarks.quality earth           (trains the runs that are read here)
    python -m benchmarks.pooling earth

The encoders are `benchmarks.quality`'s LeJEPA runs and EfficientNet-Lite0; the splits are its splits.
Each way of pooling is compared with the encoder's own on the same held-out images: the interval of the
difference is a bootstrap over images (of Earth: over blocks of 15 degrees, whose tiles are alike) that
takes the seeds' tests together. It does not count what other seeds would bring.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.preprocessing import StandardScaler

from benchmarks.pooling_ways import poolings
from benchmarks.quality import PLANS, RESULTS, Images, transfer
from jepack import bundle as bundles
from jepack.decoding import Preprocessing
from jepack.encoder import load_encoder
from jepack.files import write_json
from jepack.measures import unit, vote
from jepack.sources import demo
from training.commands.probe.scoring import few_shot, fit_linear

FIGURES = ("linear", "knn", "few_shot_10")
OWN = {"earth": "mean", "solar": "catavgmax"}  # what LeJEPA's encoders pool with
LARGER = {"earth": 96}  # px: at the 32 that it serves the last map of a ResNet is one cell
DRAWS = 4000


def right(x: Any, y: Any, split: tuple[Any, Any], groups: Any, seed: int) -> dict[str, Any]:
    """Per group of held-out images [G, 2]: how many are told right and how many there are, per figure.

    The models of `jepack probe`'s `score`, whose accuracies these add up to.
    """
    train, test = split
    scaler = StandardScaler().fit(x[train])
    z = scaler.transform(x).astype(np.float32)
    bank, query = unit(x[train]), unit(x[test])
    linear = fit_linear(z[train], y[train], seed).predict(z[test]) == y[test]
    knn = vote(query @ bank.T, y[train], 20) == y[test]
    found: dict[str, Any] = {figure: {} for figure in FIGURES}
    for group in np.unique(groups[test]):
        mine = groups[test] == group
        count = int(mine.sum())
        shots = few_shot(z, y, train, test[mine], 10, seed) * count
        for figure, told in zip(FIGURES, (linear[mine].sum(), knn[mine].sum(), shots), strict=True):
            found[figure][str(group)] = (float(told), count)
    return found


def accuracies(seeds: list[dict[str, Any]]) -> list[float]:
    """[S]: of each seed, over its groups."""
    sums = [np.sum(list(one.values()), axis=0) for one in seeds]
    return [float(told / of) for told, of in sums]


def difference(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> tuple[float, float, float]:
    """(a - b, its 95 % interval), mean over seeds; the same groups are drawn for all seeds."""
    names = sorted({group for one in a for group in one})
    ahead, count = np.zeros((2, len(a), len(names)))
    for seed, (mine, other) in enumerate(zip(a, b, strict=True)):
        for group, (told, of) in mine.items():
            ahead[seed, names.index(group)] = told - other[group][0]
            count[seed, names.index(group)] = of
    weights = np.random.default_rng(0).multinomial(len(names), [1 / len(names)] * len(names), DRAWS)
    drawn = ((weights @ ahead.T) / (weights @ count.T)).mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float((ahead.sum(1) / count.sum(1)).mean()), float(low), float(high)


def split_of(images: Images, run: Path) -> tuple[Any, Any]:
    """(training part, held-out part): indices of the labelled images, by what a run kept from training."""
    held_out = set(json.loads((run / "provenance.json").read_text())["data"]["held_out"])
    names = [file.path.relative_to(images.data).as_posix() for file in images.files]
    test = np.array([name in held_out for name in names])
    return np.flatnonzero(~test), np.flatnonzero(test)


def encoders_of(name: str, run: Path) -> Iterator[tuple[str, Any, Preprocessing]]:
    """(name, backbone, how it is given images) of a run and of EfficientNet-Lite0."""
    general = transfer()
    if general is not None:
        look = replace(general[1], size=PLANS[name].transfer_size)
        yield "EfficientNet-Lite0, ImageNet", general[0].backbone, look
    bundle = bundles.load(run / "bundle")
    backbone, look = load_encoder(bundle)[0].backbone, bundle.preprocessing
    yield "LeJEPA", backbone, look
    if name in LARGER:
        yield "LeJEPA", backbone, replace(look, size=LARGER[name])


def measure(name: str, seeds: int, runs: Path) -> Iterator[list[dict[str, Any]]]:
    """All rows so far, after each seed."""
    images = Images(demo.prepare(name, runs / "data"), PLANS[name].classes)
    paths = [file.path.name for file in images.files]
    # A tile's name starts with its block.
    groups = np.array([path.split("_")[0] for path in paths] if name == "earth" else paths)
    rows: dict[tuple[str, int, str], dict[str, Any]] = {}
    for seed in range(seeds):
        run = runs / f"lejepa-{seed}"
        settings = json.loads((run / "config.json").read_text())
        split = split_of(images, run)
        for encoder, backbone, look in encoders_of(name, run):
            ways, facts = poolings(
                backbone, images.pixels(look), images.y, split[0], groups, look, settings
            )
            for pooling, x in ways.items():
                row = rows.setdefault((encoder, look.size, pooling), {"dims": x.shape[1], **facts})
                told = right(x.numpy(), images.y, split, groups, seed)
                for figure in FIGURES:
                    row.setdefault(figure, []).append(told[figure])
        yield compared(rows, name)


def compared(rows: dict[tuple[str, int, str], Any], name: str) -> list[dict[str, Any]]:
    """Each row's accuracies, and what it is ahead of its encoder's own pooling by, at the size served."""
    found = []
    for (encoder, px, pooling), row in rows.items():
        served = next(size for who, size, _ in rows if who == encoder)
        own = rows[encoder, served, OWN[name] if encoder == "LeJEPA" else "mean"]
        one = {"encoder": encoder, "px": px, "pooling": pooling, "own": row is own}
        one |= {
            "dims": row["dims"],
            "cells": row["cells"],
            "seeds": list(range(len(row["linear"]))),
        }
        for figure in FIGURES:
            ahead, low, high = difference(row[figure], own[figure])
            one[figure] = {
                "seeds": accuracies(row[figure]), "ahead": ahead, "low": low, "high": high,
            }  # fmt: skip
        found.append(one)
    return found


def show(name: str, rows: list[dict[str, Any]]) -> None:
    table = Table(
        title=f"{name}: accuracy, and points ahead of the encoder's own pooling", box=None
    )
    for column in ("encoder", "px", "pooling", "dims", "linear", "", "kNN", "", "10-shot", ""):
        table.add_column(column)
    for row in rows:
        cells = []
        for figure in FIGURES:
            told = row[figure]
            points = " ".join(f"{100 * told[key]:+.1f}" for key in ("ahead", "low", "high"))
            cells += [f"{np.mean(told['seeds']):.3f}", "own" if row["own"] else points]
        table.add_row(row["encoder"], str(row["px"]), row["pooling"], str(row["dims"]), *cells)
    Console(width=170).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("dataset", choices=PLANS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"))
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    name = chosen.dataset
    for rows in measure(name, chosen.seeds, chosen.runs / name):
        show(name, rows)
        write_json(chosen.json or RESULTS / f"pooling_{name}.json", {"data": name, "rows": rows})


if __name__ == "__main__":
    main()
