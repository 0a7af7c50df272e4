"""A run before its first step: settled settings; encoder, method and optimizer."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from jepack import bundle as bundles
from jepack.decoding import FITS, Preprocessing
from jepack.encoder import (
    Encoder,
    Projector,
    ProjectorConfig,
    build_backbone,
    build_encoder,
    load_encoder,
)
from jepack.errors import ArtifactError, ConfigError, DataError
from jepack.network import check_network
from training.data import split
from training.methods import LeJEPA, registry
from training.parallel import Ranks, broadcast, sharding
from training.run import gentle
from training.run.averaging import Average
from training.run.feeding import fetching
from training.run.precision import faster_in_bf16
from training.run.state import Session, State
from training.settings import TrainConfig

LEAST_TRAIN = 16
LEAST_HELD_OUT = 8  # isotropy is not told of fewer


def settle(config: TrainConfig, here: Ranks) -> TrainConfig:
    """The settings a run really has: a bundle it starts from names its encoder, an encoder that takes
    one image size is evaluated and served at the size it trains at, and the device names the precision.

    Raises ConfigError where the bundle of `init` or the ranks and the settings contradict each other.
    """
    check_ranks(config, here)
    check_start(config)
    if config.init:
        start = open_start(config.init)
        check_network(start)
        config = inherit(config, start)
    config = replace(config, fit=config.fit or "crop")
    if config.precision == "auto":  # the first rank decides for all
        native = broadcast(faster_in_bf16(config.encoder, here.device))
        config = replace(config, precision="bf16" if native else "fp32")
    known = timm.get_pretrained_cfg(config.encoder) if timm.is_model(config.encoder) else None
    if known is not None and known.fixed_input_size and config.serving_size != config.size:
        return replace(config, eval_size=config.size)
    return config


def check_start(config: TrainConfig) -> None:
    """Raises ConfigError where trained weights are to be kept and none are named."""
    if config.keep_start and not (config.init or config.pretrained):
        raise ConfigError(
            "keep_start, which the recipe adapt has, needs trained weights to start from: --init BUNDLE (one "
            "of `jepack import` or `jepack train`), or --encoder NAME --set pretrained=true"
        )


def open_start(named: str) -> bundles.Bundle:
    """The bundle of `init`. ArtifactError with what to name instead, where that can be told."""
    folder = Path(named)
    if (folder / "bundle" / "manifest.json").is_file() and not (folder / "manifest.json").is_file():
        raise ArtifactError(f"--init {named} is a run; its bundle is --init {folder / 'bundle'}")
    if not folder.is_dir() and (folder.is_file() or named.startswith(("timm:", "hf:"))):
        raise ArtifactError(
            f"--init {named} is no bundle: make one of these weights first, jepack import {named} "
            "--data IMAGES --out BUNDLE, and start from that"
        )
    return bundles.load(folder)


def inherit(config: TrainConfig, start: bundles.Bundle) -> TrainConfig:
    """The settings with the architecture of the bundle they start from."""
    channels = start.preprocessing.channels
    if config.channels not in (0, channels):
        raise ConfigError(
            f"{start.folder} takes {channels} channel(s), {config.channels} are asked. Leave "
            "--set channels out, or start from another bundle"
        )
    arguments = start.config().get("model_args", {})
    size, width = arguments.get("img_size", config.size), arguments.get("embed_dim")
    if size != config.size:
        raise ConfigError(
            f"{start.folder} takes images of {size} px and of no other size, {config.size} is asked. "
            f"Use --size {size}"
        )
    return replace(
        config,
        encoder=start.config()["architecture"],
        eval_size=config.eval_size or start.preprocessing.size,
        channels=channels,
        fit=config.fit or fit_of(start.preprocessing),
        global_pool=arguments.get("global_pool", config.global_pool),
        patch_size=arguments.get("patch_size", config.patch_size),
        depth=arguments.get("depth", config.depth),
        width=width if width == 64 * arguments.get("num_heads", 0) else config.width,
        projection_dims=config.projection_dims
        if config.new_projector
        else start.dimensions["projection"],
    )


def fit_of(preprocessing: Preprocessing) -> str:
    (fit,) = (word for word, mode in FITS.items() if mode == preprocessing.crop_mode)
    return fit


def steps_of(config: TrainConfig, images: int) -> int:
    return max(1, round(config.epochs * images / config.images_per_step))


def check_sizes(config: TrainConfig, train: int, held_out: int, here: Ranks) -> None:
    """Whether so many training and held-out images are enough, for evaluation and bundle too.

    Asked of the list of files before they are decoded, and again of those that could be read.
    """
    if train < LEAST_TRAIN or held_out < LEAST_HELD_OUT:
        count = train + held_out
        raise DataError(
            f"{count} images give {train} to train on and {held_out} held out; training needs at least "
            f"{LEAST_TRAIN}, judging what it learnt at least {LEAST_HELD_OUT}. "
            f"{more_held_out(count, config, held_out)}"
        )
    if config.images_per_step > train:
        share = here.world * config.accumulate
        raise ConfigError(
            f"images_per_step is {config.images_per_step} but there are {train} training images. "
            f"Use --images-per-step {max(2, share, train // 2 // share * share)}"
        )


def more_held_out(count: int, config: TrainConfig, held_out: int) -> str:
    if count < LEAST_TRAIN + LEAST_HELD_OUT:
        return f"Add images: {LEAST_TRAIN + LEAST_HELD_OUT} are the least"
    if held_out != len(split(count, config.validation_fraction, config.seed)[1]):
        return "Mend the split: by the manifest's `split` column, the folders, or --group-by"
    fits = max(LEAST_HELD_OUT, min(held_out, count - LEAST_TRAIN)) / count
    return f"Use --set validation_fraction={math.ceil(100 * fits) / 100:g}, or add images"


def check_ranks(config: TrainConfig, here: Ranks) -> None:
    """Whether the step and the weights can be shared out over so many ranks."""
    if config.images_per_step % (here.world * config.accumulate):
        raise ConfigError(
            f"{config.images_per_step} images per step do not divide by {here.world} ranks x "
            f"{config.accumulate} micro-batches. Use --images-per-step {shared(config, here)}"
        )
    if config.sharding == "fsdp" and here.world == 1:
        raise ConfigError(
            "sharding=fsdp splits the weights over ranks, and there is one rank. Start it with "
            "torchrun --nproc-per-node N -m jepack train ..., or leave sharding out"
        )


def shared(config: TrainConfig, here: Ranks) -> int:
    """The images per step nearest to what is asked that every rank and micro-batch gets as many of."""
    each = here.world * config.accumulate
    return max(1, round(config.images_per_step / each)) * each


def build_start(config: TrainConfig) -> Encoder:
    """The encoder before the first step: the bundle's, timm's published one, or random weights."""
    shape: dict[str, Any] = {"hidden": config.projector_hidden, "layers": config.projector_layers}
    if not config.init:
        with fetching(f"timm:{config.encoder}") if config.pretrained else nullcontext():
            return build_encoder(
                config.encoder, channels=config.channels, size=config.size,
                projection_dims=config.projection_dims, pretrained=config.pretrained, **shape,
                **config.building_options(),
            )  # fmt: skip
    encoder, _ = load_encoder(bundles.load(config.init), **config.building_options())
    if config.new_projector:
        width = encoder.projector.config.in_features
        new = ProjectorConfig(in_features=width, out_features=config.projection_dims, **shape)
        encoder = Encoder(encoder.backbone, Projector(new))
    return encoder.train()


def model_args_of(config: TrainConfig) -> dict[str, Any]:
    """timm arguments of the architecture, as the bundle keeps them: those of the start stay."""
    own = {} if config.init is None else bundles.load(config.init).config().get("model_args", {})
    told = {name: value for name, value in own.items() if name not in ("in_chans", "img_size")}
    return told | config.encoder_options


def fetch_weights(config: TrainConfig) -> None:
    """timm's published weights into its cache. Raises ArtifactError where they cannot be had."""
    with fetching(f"timm:{config.encoder}"):
        build_backbone(config.encoder, channels=3, size=config.size, pretrained=True)


def build_session(config: TrainConfig, here: Ranks) -> Session:
    encoder = build_start(config)
    gentle.freeze_stages(encoder.backbone, config.frozen_stages)
    if config.activation_checkpointing:
        backbone: Any = encoder.backbone
        backbone.set_grad_checkpointing(True)
    if config.precision == "fp64":
        encoder.double()
    method = registry.build_method(config, encoder, here)
    average: Average | None = None
    averaged = config.ema_decay > 0 and not method.has_teacher
    if config.sharding == "fsdp":
        assert isinstance(method, LeJEPA)
        return sharded(method, config, here, averaged)
    if averaged:
        average = Average(method.encoder, config.ema_decay)
    slower = config.projector_first or config.backbone_rate != 1
    backbone = method.encoder.backbone if slower else None
    return Session(State(method, optimizer_for(method.trained, config, backbone), average))


def sharded(method: LeJEPA, config: TrainConfig, here: Ranks, averaged: bool) -> Session:
    """The session with FSDP2: method, average and optimizer each in shards."""
    twin = sharding.unsharded_twin(method.encoder) if here.first else None
    average = Average(method.encoder, config.ema_decay) if averaged else None
    method.shard()
    if average is not None:
        sharding.shard(average.module, here.device)
    optimizer = optimizer_for(method.trained, config)
    assert twin is None or isinstance(twin, Encoder)
    return Session(State(method, optimizer, average), twin=twin, sharded=True)


def optimizer_for(
    module: nn.Module, config: TrainConfig, backbone: nn.Module | None = None
) -> torch.optim.Optimizer:
    """AdamW; biases, norms and other vectors are not decayed. On GPUs its one kernel, which can leave a
    step out on the device; sharded weights do not work with that. Parameters of `backbone` get groups of
    their own, for a rate of their own."""
    inner = set() if backbone is None else set(backbone.parameters())
    groups = []
    for own in (False, True) if inner else (False,):
        mine = [p for p in module.parameters() if p.requires_grad and (p in inner) == own]
        for decayed in (True, False):
            held = [p for p in mine if (p.ndim > 1) == decayed]
            decay = config.weight_decay if decayed else 0.0
            marks = {gentle.OF_BACKBONE: own} if inner else {}
            groups.append({"params": held, "weight_decay": decay, **marks})
    on_gpu = all(p.device.type == "cuda" for p in module.parameters())
    fused = True if on_gpu and config.sharding != "fsdp" else None
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.999), fused=fused)


def seed_everything(config: TrainConfig, step: int, here: Ranks) -> None:
    """Dropout and noise of a step depend on (seed, step, rank) alone, so resuming repeats them.

    The first call (step 0) seeds the initial weights: the same on every rank.
    """
    torch.manual_seed(config.seed * 1_000_003 + step * 1_009 + (here.rank if step else 0))
