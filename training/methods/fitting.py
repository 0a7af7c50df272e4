"""Whether an encoder takes the sizes it will be given: a pass on zeros, before any image is looked at."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jepack import bundle as bundles
from jepack.errors import ConfigError, JepackError
from jepack.network import build_backbone, memory_bytes
from training.methods.ijepa import checked_vit
from training.settings import TrainConfig

STRIDES = (32, 16, 14, 8)  # px: sizes that encoders take are mostly multiples of one of these
MOST_TRIES = 16


@dataclass(frozen=True)
class Role:
    """A size that images will have: what they are, and the option that sets it."""

    what: str
    option: str
    size: int


def check_encoder(config: TrainConfig) -> None:
    """ConfigError where the encoder cannot be built as asked, or cannot take one of the run's sizes.

    Nothing is computed: weights and images are shapes only (torch's meta device). An encoder that does not
    go through that is tried in earnest, on two black images: some ask for values on the way.
    """
    check_projector(config)
    roles = [Role("global views", "--size ", config.size)]
    if config.local_views:
        roles.append(Role("local views", "--set local_size=", config.local_size))
    if config.serving_size != config.size:
        roles.append(
            Role("the images it is judged by and serves", "--set eval_size=", config.serving_size)
        )
    arguments = building(config)
    for role in roles:
        reason = trouble(config, arguments, config.size, role.size)
        if reason is None:
            continue
        works = near_sizes(config, arguments, role)
        if not works and role.size == config.size:
            raise ConfigError(
                f"{config.encoder} cannot be built with these settings at {role.size} px ({reason}). "
                "Leave patch_size, depth, width, global_pool and activation_checkpointing out, or take "
                "another encoder"
            )
        nearest = min(works, key=lambda size: abs(size - role.size), default=config.size)
        told = " and ".join(map(str, works)) or "none was found"
        raise ConfigError(
            f"{config.encoder} cannot take {role.what} of {role.size} px ({reason}). Sizes near it that "
            f"it takes: {told}. Use {role.option}{nearest}"
        )
    if config.method == "ijepa":
        with torch.device("meta"):
            checked_vit(build_backbone(size=config.size, **arguments), config)


def check_projector(config: TrainConfig) -> None:
    """ConfigError for a projector whose weights alone are more than this machine's memory."""
    if config.init:
        return
    hidden, layers = config.projector_hidden, config.projector_layers
    between = max(0, layers - 2) * hidden**2 + (layers > 1) * hidden * config.projection_dims
    if 4 * between > memory_bytes():
        raise ConfigError(
            f"a projector of {layers} layers and {hidden} hidden dimensions has {4 * between / 1e9:,.0f} GB "
            f"of weights, this machine {memory_bytes() / 1e9:,.0f} GB of memory. Lower projector_hidden or "
            "projector_layers"
        )


def building(config: TrainConfig, *, any_size: bool = False) -> dict[str, Any]:
    """What the backbone is built with, but for the size of its images."""
    name, options = config.encoder, config.building_options(any_size=any_size)
    if config.init:
        start = bundles.load(Path(config.init)).config()
        kept = {
            k: v
            for k, v in start.get("model_args", {}).items()
            if k not in ("in_chans", "img_size")
        }
        name, options = start["architecture"], kept | options
    return {"name": name, "channels": config.channels or 3, **options}


def trouble(config: TrainConfig, arguments: dict[str, Any], built: int, size: int) -> str | None:
    """Why an encoder built for `built` px cannot take images of `size` px; None where it can."""
    reason = None
    for device in ("meta", "cpu"):
        try:
            run_on_zeros(config, built_on(device, config, arguments, built), size)
            return None
        except JepackError:
            raise
        except AssertionError as error:  # about sizes, which are the same in earnest
            return in_words(error)
        except Exception as error:  # whatever else a network says
            reason = in_words(error)
    return reason


def built_on(device: str, config: TrainConfig, arguments: dict[str, Any], size: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), torch.device(device):
        warnings.simplefilter("ignore")
        backbone: Any = build_backbone(size=size, **arguments)
    if config.activation_checkpointing:
        backbone.set_grad_checkpointing(True)
    return backbone  # type: ignore[no-any-return]


def in_words(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(". ") or type(error).__name__


@torch.no_grad()
def run_on_zeros(config: TrainConfig, backbone: nn.Module, size: int) -> None:
    device = next(backbone.parameters()).device
    images = torch.zeros(2, config.channels or 3, size, size, device=device)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for training in (True, False):
            backbone.train(training)(images)


def near_sizes(config: TrainConfig, arguments: dict[str, Any], role: Role) -> list[int]:
    """The nearest working sizes, one below and one above where there are such."""
    working: dict[bool, int] = {}
    sizes = {n * stride for stride in STRIDES for n in range(1, 2 * role.size // stride + 2)}
    nearest = sorted((size for size in sizes if size >= 8), key=lambda size: abs(size - role.size))
    tried = [size for size in nearest if size != role.size][:MOST_TRIES]
    if role.size != config.size:
        tried.append(config.size)

    @cache
    def built(size: int) -> nn.Module:
        return built_on("meta", config, arguments, size)

    for size in tried:
        above = size > role.size
        try:
            if above not in working:
                run_on_zeros(config, built(size if role.size == config.size else config.size), size)
                working[above] = size
        except Exception:  # whatever a network says of a size it cannot take
            continue
        if len(working) == 2:
            break
    return sorted(working.values())
