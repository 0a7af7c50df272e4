"""Whether config.json names the network whose weights a bundle holds, before memory is taken. torch + timm.

The network is built on torch's meta device, as shapes without values, and compared with the headers of the
weights' files. A config can ask for more layers or wider ones than any memory holds; the building stops as
soon as it outgrows the weights that it is for.
"""

from __future__ import annotations

import json
import math
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn
from torch.nn.modules import module as hooks

from jepack.bundle import (
    MAX_TENSORS,
    Bundle,
    config_problems,
    misfit,
    projector_problems,
    shapes_in,
)
from jepack.errors import ArtifactError, ConfigError, JepackError

Shapes = Mapping[str, list[int]]


class OutgrownError(ArtifactError):
    """A network that is larger than the weights it is for."""


def build_backbone(
    name: str, *, channels: int, size: int, pretrained: bool = False, **options: Any
) -> nn.Module:
    """A timm model without its head. Raises ConfigError for a name timm does not know."""
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0].split('.')[0]}*")[:5]
        hint = f" Near: {', '.join(near)}." if near else ""
        raise ConfigError(f"timm has no model {name!r}.{hint} List them: timm.list_models()")
    try:
        return timm.create_model(
            name, pretrained=pretrained, num_classes=0, in_chans=channels, img_size=size, **options
        )
    except TypeError as error:  # convolutional models take any size and know no img_size
        if "img_size" not in str(error):
            raise
        return timm.create_model(
            name, pretrained=pretrained, num_classes=0, in_chans=channels, **options
        )


@contextmanager
def building(source: str, failed: str = "timm cannot build this network") -> Iterator[None]:
    """timm raises a wide family for arguments that make no network: one error that names their source."""
    try:
        yield
    except JepackError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ArtifactError(f"{source}: {failed} ({reason[:200]})") from error


def problems_of(bundle: Bundle) -> list[str]:
    """What is wrong with the network of a sound bundle, a sentence each."""
    try:
        check_network(bundle)
    except JepackError as error:
        return [str(error)]
    return []


def check_network(bundle: Bundle) -> dict[str, Any]:
    """config.json, whose network fits the weights, the images and the manifest. Raises ArtifactError."""
    folder = bundle.folder
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    if problems := config_problems(config, bundle.dimensions):
        raise ArtifactError(f"{folder}: {'; '.join(problems)}")
    if problems := projector_problems(folder / "projector.safetensors", config):
        raise ArtifactError(f"{folder}/{problems[0]}")
    try:
        weights = shapes_in(folder / "model.safetensors")
    except ValueError as error:
        raise ArtifactError(f"{folder}/model.safetensors: {error}") from error
    reason: Exception | None = None
    for device in ("meta", "cpu"):  # some networks ask for values while they are built or run
        try:
            width = width_on(device, bundle, config, weights)
        except JepackError:
            raise
        except Exception as error:  # timm raises a wide family
            reason = error
            continue
        if width != bundle.dimensions["embedding"]:
            raise ArtifactError(
                f"{folder}/config.json: the network it names gives embeddings of {width} dimensions, the "
                f"manifest says {bundle.dimensions['embedding']}"
            )
        return config
    assert reason is not None
    size = bundle.preprocessing.size
    with building(f"{folder}/config.json", f"timm cannot build this network for {size} px"):
        raise reason


@torch.no_grad()
def width_on(device: str, bundle: Bundle, config: dict[str, Any], weights: Shapes) -> int:
    """Dimensions of the embeddings. ArtifactError where the network is not that of the weights."""
    size, channels = bundle.preprocessing.size, bundle.preprocessing.channels
    source = f"{bundle.folder}/config.json"
    with quietly(device):
        with bounded(most_of(weights), source):
            backbone = build_backbone(
                config["architecture"], channels=channels, **arguments_of(config, size)
            )
        wanted = {name: list(value.shape) for name, value in backbone.state_dict().items()}
        if problem := misfit(weights, wanted):
            raise ArtifactError(
                f"{bundle.folder}/model.safetensors: the weights do not fit the architecture that "
                f"config.json names ({problem})"
            )
        return int(backbone.eval()(torch.zeros(1, channels, size, size)).shape[-1])


def arguments_of(config: dict[str, Any], size: int) -> dict[str, Any]:
    """What a bundle's backbone is built with, but for its name and channels; `size` where it fixes none."""
    own = {k: v for k, v in config.get("model_args", {}).items() if k != "in_chans"}
    return {"size": own.pop("img_size", size), **own}


@contextmanager
def quietly(device: str) -> Iterator[None]:
    """New tensors on `device`; no random number is taken from anybody, and no warning told."""
    with (
        torch.random.fork_rng(devices=[]),
        warnings.catch_warnings(),
        torch.device(device),
    ):
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True)
class Most:
    """How large a network may become while it is built, and why."""

    numbers: int
    tensors: int
    modules: int
    reason: str


def most_of(weights: Shapes) -> Most:
    """That of a network for these weights, with room to spare: some register a tensor twice, or replace it.

    Of 95 families of timm 1.0.31 none registers more than 1.1 times its numbers, or 3 modules per tensor.
    """
    held, count = sum(map(math.prod, weights.values())), len(weights)
    told = f"the weights do not fit: they are {held:,} numbers in {count:,} tensors"
    return Most(2 * held + (1 << 24), 2 * count + 1000, 8 * count + 4000, told)


def most_here() -> Most:
    """That of a network whose weights are not known yet: this machine's memory, in float32."""
    memory = memory_bytes()
    return Most(
        memory // 4, MAX_TENSORS, 8 * MAX_TENSORS, f"{memory / 1e9:.0f} GB of memory are here"
    )


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextmanager
def bounded(most: Most, source: str) -> Iterator[None]:
    """Stops with ArtifactError a network that outgrows `most`, while it is built in this thread."""
    built, here = dict.fromkeys(("numbers", "tensors", "modules"), 0), threading.get_ident()

    def count(kind: str, number: int) -> None:
        if threading.get_ident() != here:
            return
        built[kind] += number
        if built[kind] > getattr(most, kind):
            raise OutgrownError(
                f"{source}: the network it names has more than {getattr(most, kind):,} {kind} and was not "
                f"built; {most.reason}"
            )

    def tensor(module: nn.Module, name: str, value: torch.Tensor | None) -> None:
        if value is not None:
            count("tensors", 1)
            count("numbers", value.numel())

    def part(module: nn.Module, name: str, value: nn.Module | None) -> None:
        count("modules", 1)

    handles = [
        hooks.register_module_parameter_registration_hook(tensor),
        hooks.register_module_buffer_registration_hook(tensor),
        hooks.register_module_module_registration_hook(part),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
