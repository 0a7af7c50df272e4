"""How an encoder is fed: as its start was, where it starts from trained weights, else as is measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import timm

from jepack import bundle as bundles
from jepack.bundle import PRETRAINED_CFG, table_problems
from jepack.decoding import INTERPOLATIONS, Preprocessing, Window
from jepack.errors import ArtifactError, JepackError
from training.data import Images
from training.settings import TrainConfig


def feeding(
    config: TrainConfig, images: Images, window: Window, run: Path | None = None
) -> Preprocessing:
    """Size, window and fit as the settings say; mean, std, crop and filter those of the start.

    Weights that were trained with one mean and std are other features with another. A `run` that has
    begun goes on with what it began with, also one that measured what it should have been told.
    """
    start = begun(run) if run is not None else None
    if start is None or start.channels != images.channels:
        if config.init:
            start = bundles.load(Path(config.init)).preprocessing
        elif config.pretrained:
            stated = stated_by_timm(config.encoder)
            start = preprocessing_of(stated, images.channels, config.serving_size)
        else:
            return measured(config, images, window)
    return replace(
        start, size=config.serving_size, window=window, crop_mode=config.crop_mode,
    )  # fmt: skip


def begun(run: Path) -> Preprocessing | None:
    """What the run in this folder is fed with; None where it has no checkpoint to go on from."""
    if not any((run / "checkpoints").glob("step-*")):
        return None
    try:
        return Preprocessing.from_json(json.loads((run / "preprocessing.json").read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def measured(config: TrainConfig, images: Images, window: Window) -> Preprocessing:
    """Mean and std of a sample of the images, per channel."""
    chosen = np.linspace(0, len(images) - 1, min(len(images), 512)).astype(int)
    flat = [images[i].reshape(-1, images.channels) / 255.0 for i in np.unique(chosen)]
    mean = np.mean([pixels.mean(axis=0) for pixels in flat], axis=0)
    variance = np.mean([((pixels - mean) ** 2).mean(axis=0) for pixels in flat], axis=0)
    return Preprocessing(
        size=config.serving_size,
        channels=images.channels,
        window=window,
        crop_mode=config.crop_mode,
        mean=tuple(round(float(value), 4) for value in mean),
        std=tuple(round(max(float(value), 0.01), 4) for value in np.sqrt(variance)),
    )


def stated_by_timm(name: str) -> dict[str, Any]:
    """timm's pretrained_cfg of a model name; {} when it has none."""
    try:
        config: Any = timm.models.get_pretrained_cfg(name)
    except (RuntimeError, KeyError):
        config = None  # build_backbone explains unknown names
    return config.to_dict() if config is not None else {}


def preprocessing_of(stated: dict[str, Any], channels: int, size: int) -> Preprocessing:
    """How the model's authors feed it, at this size; `stated` is timm's pretrained_cfg.

    Raises ArtifactError for what jepack cannot do the same way: another preprocessing gives other
    embeddings, and nobody would see why.
    """
    known = {name: value for name, value in stated.items() if value is not None}
    problems = table_problems(
        "pretrained_cfg", {k: v for k, v in known.items() if k in PRETRAINED_CFG}, PRETRAINED_CFG
    )
    if problems:
        raise ArtifactError(f"the model states no usable preprocessing: {'; '.join(problems)}")
    _, height, width = known.get("input_size", (3, 224, 224))
    mode, pct = known.get("crop_mode", "center"), float(known.get("crop_pct", 1.0))
    interpolation = known.get("interpolation", "bicubic")
    if height != width and not size:
        raise ArtifactError(
            f"the model takes {height} x {width} px and jepack square images: choose a side with --size"
        )
    if interpolation not in INTERPOLATIONS:
        raise ArtifactError(
            f"the model's images are resized by {interpolation!r}; jepack knows "
            f"{', '.join(INTERPOLATIONS)}, and another would give other embeddings"
        )
    if not 0.1 <= pct <= 1:
        raise ArtifactError(
            f"the model states crop_pct {pct:g}: only a crop of 0.1 to 1 of the resized image can be cut"
        )
    if known.get("crop_border_pixels"):
        raise ArtifactError("the model trims a border of its images first, which jepack cannot do")
    mean, std = tuple(known.get("mean", (0.5,) * 3)), tuple(known.get("std", (0.5,) * 3))
    if len(mean) != channels:
        mean, std = (float(np.mean(mean)),) * channels, (float(np.mean(std)),) * channels
    return Preprocessing(
        size=size or int(height),
        channels=channels,
        mean=mean,
        std=std,
        crop_pct=pct,
        interpolation=interpolation,
        crop_mode=mode,
    )


@contextmanager
def fetching(name: str) -> Iterator[None]:
    """Turns whatever a download or its cache raises into one clear error."""
    try:
        yield
    except JepackError:
        raise
    except Exception as error:  # of many libraries
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ArtifactError(
            f"{name}: its weights could not be had ({lines[0][:200]}). Without the Hub, fetch "
            "the file elsewhere and run: jepack import FILE --encoder NAME"
        ) from error
