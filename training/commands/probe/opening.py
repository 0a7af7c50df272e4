"""The encoders that are probed: bundles, checkpoints, timm's published ones, untrained ones."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jepack import bundle as bundles
from jepack.decoding import Preprocessing
from jepack.encoder import (
    Encoder,
    Projector,
    ProjectorConfig,
    embedding_dims,
    load_encoder,
)
from jepack.errors import ConfigError
from jepack.network import build_backbone
from jepack.sources import demo
from training.commands.weights import fetching
from training.run import encoder_of

KINDS = ("timm:", "random:")
IMAGENET = "imagenet"  # the kind that has no name: there is one package


def open_encoder(source: str, channels: int, size: int) -> tuple[Encoder, Preprocessing]:
    """A bundle's or checkpoint's folder, `timm:NAME` (published), `random:NAME` (untrained) or `imagenet`."""
    kind, _, name = source.partition(":")
    if is_checkpoint(source):
        return encoder_of(Path(source))
    if source == IMAGENET:
        return imagenet(channels, size)
    if kind not in ("timm", "random") or not name:
        bundle = bundles.load(Path(source))
        return load_encoder(bundle)[0], bundle.preprocessing
    torch.manual_seed(0)
    backbone = build_backbone(name, channels=channels, size=size, pretrained=kind == "timm")
    known: Any = backbone
    mean, std = known.pretrained_cfg.get("mean", (0.5,)), known.pretrained_cfg.get("std", (0.5,))
    if len(mean) != channels:
        mean, std = (float(np.mean(mean)),) * channels, (float(np.mean(std)),) * channels
    width = embedding_dims(backbone, channels, size)
    head = Projector(ProjectorConfig(in_features=width, hidden=8, out_features=8, layers=1))
    preprocessing = Preprocessing(size=size, channels=channels, mean=tuple(mean), std=tuple(std))
    return Encoder(backbone, head).eval(), preprocessing


def imagenet(channels: int, size: int) -> tuple[Encoder, Preprocessing]:
    """EfficientNet-Lite0 with its ImageNet weights, from a package that needs no network."""
    weights = next(demo.package_folder(*demo.IMAGENET).rglob("*.pth"))
    state = torch.load(weights, map_location="cpu", weights_only=True)
    theirs = [value for name, value in state.items() if not name.startswith(("_fc", "fc", "class"))]
    encoder, _ = open_encoder("random:tf_efficientnet_lite0", 3, size)
    ours = list(encoder.backbone.state_dict().values())
    # The two name their layers differently but order them alike.
    if [tuple(one.shape) for one in ours] != [tuple(one.shape) for one in theirs]:
        raise ConfigError(f"{weights}: its tensors are not those of timm's tf_efficientnet_lite0")
    for own, published in zip(ours, theirs, strict=True):
        own.copy_(published)
    if channels != 3:
        raise ConfigError(f"imagenet sees 3 channels, and the images have {channels}")
    half = (0.5,) * 3
    return encoder, Preprocessing(size=size, channels=3, mean=half, std=half)


def is_checkpoint(source: str) -> bool:
    return (Path(source) / "state.pt").is_file()


def opened(
    source: str, bundle: bundles.Bundle | None, size: int
) -> tuple[Encoder, Preprocessing, str]:
    """The encoder of `source`, how it wants its images, and its name in tables.

    `random` alone is the bundle's own network, untrained, at the bundle's size and channels.
    """
    if source == "random":
        if bundle is None:
            raise ConfigError("--baseline random needs a bundle; else name one: random:resnet18")
        name = f"random:{bundle.config()['architecture']}"
        model, preprocessing = open_encoder(
            name, bundle.preprocessing.channels, bundle.preprocessing.size
        )
        return model, preprocessing, name
    with fetching(source) if source.startswith("timm:") else nullcontext():
        model, preprocessing = open_encoder(source, 3, size)
    named = source == IMAGENET or source.startswith(KINDS) or is_checkpoint(source)
    return model, preprocessing, source if named else bundles.load(source).name
