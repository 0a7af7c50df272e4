"""Where a row of `python -m benchmarks.gpu` is measured: its folders, pictures, device and settings."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from training.parallel import choose_device
from training.settings import TrainConfig, recipe

ROOT = Path(__file__).parents[1]
NO_GPU = "no GPU: on the CPU, small"
Figures = dict[str, Any]


@dataclass(frozen=True)
class Place:
    out: Path  # of results
    work: Path  # of pictures, caches and runs; shared by the rows
    tiny: bool
    contenders: Path | None = None  # where others' packages were installed, if in a folder

    @property
    def small(self) -> bool:
        return self.tiny or not torch.cuda.is_available()

    @property
    def device(self) -> torch.device:
        return choose_device("cuda" if torch.cuda.is_available() else "cpu")

    def photos(self) -> Path:
        """A folder of smooth coloured pictures in four class folders, 256 px; made once."""
        folder, count = self.work / "photos", 64 if self.small else 2048
        if folder.is_dir():
            return folder
        stage = self.work / "photos.new"
        generator = np.random.default_rng(0)
        for number in range(count):
            kind = number % 4
            coarse = generator.integers(0, 256, (4 + 2 * kind, 4 + 2 * kind, 3), dtype=np.uint8)
            picture = cv2.resize(coarse, (256, 256), interpolation=cv2.INTER_CUBIC)
            target = stage / f"kind-{kind}" / f"{number:05d}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(target), picture)
        stage.rename(folder)
        return folder


def outcome() -> Figures:
    return {} if torch.cuda.is_available() else {"outcome": NO_GPU}


def machine(place: Place) -> Figures:
    found: Figures = {"torch": torch.__version__, "python": platform.python_version()}
    found |= {
        "cores": os.cpu_count(),
        "onnxruntime": version("onnxruntime"),
        "timm": version("timm"),
    }
    if not torch.cuda.is_available():
        return {"outcome": "no GPU", **found}
    properties = torch.cuda.get_device_properties(place.device)
    capability = f"{properties.major}.{properties.minor}"
    found |= {"gpu": properties.name, "gib": round(properties.total_memory / 2**30, 1)}
    return found | {"capability": capability, "gpus": torch.cuda.device_count()}


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def small_settings(config: TrainConfig) -> TrainConfig:
    return replace(
        config, encoder="test_vit" if "vit" in config.encoder else "test_resnet", size=32, local_size=16,
        images_per_step=16, slices=64, projector_hidden=64, eval_size=32, workers=1,
    )  # fmt: skip


def resnet_settings(place: Place) -> TrainConfig:
    """ResNet-18, 128 images of 8 views of 128 px."""
    found = replace(recipe("small-domain"), images_per_step=128, channels=3, workers=workers())
    return small_settings(found) if place.small else found


def vit_settings(place: Place) -> TrainConfig:
    """ViT-S/16, 128 images of 2 views of 224 px and 6 of 96 px."""
    found = replace(recipe("vit_small"), images_per_step=128, channels=3, workers=workers())
    return small_settings(found) if place.small else found


def workers() -> int:
    return max(1, min(12, (os.cpu_count() or 2) - 2))
