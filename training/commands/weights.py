"""Opening encoders that were trained elsewhere: timm, the Hub, weights files, folders in timm's format."""

from __future__ import annotations

import json
import pickle
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import load_model_config_from_hf
from torch import Tensor, nn

from jepack.bundle import PRETRAINED_CFG, argument_problems
from jepack.encoder import load_strictly
from jepack.errors import ArtifactError, ConfigError
from jepack.files import sha256_of
from jepack.network import bounded, build_backbone, building, most_here, most_of, quietly
from training.run import fetching, stated_by_timm

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # of a folder in timm's format
PREFIXES = ("", "module.", "backbone.", "module.backbone.", "encoder.", "model.", "_orig_mod.")
HUB = {"source": "hf-hub", "custom_load": False}  # of timm's pretrained_cfg
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "teacher", "student")


@dataclass(frozen=True)
class Weights:
    """A backbone with its weights, on the CPU, and what is known of it."""

    backbone: nn.Module
    architecture: str  # timm name without tag
    origin: str  # for the card and the manifest
    stated: dict[str, Any]  # timm's pretrained_cfg: input size, mean, std, licence
    sha256: str | None = None  # of a weights file
    model_args: dict[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()  # tensors of the file that the backbone does not have


def open_source(source: str, encoder: str | None, channels: int, size: int) -> Weights:
    """The encoder that `source` names, built for crops of `size` px (0 = its own)."""
    kind, _, name = source.partition(":")
    if kind == "timm" and name:
        return from_timm(name, channels, size)
    if kind == "hf" and name:
        return from_hub(name, channels, size)
    path = Path(source)
    if (path / "config.json").is_file():
        return from_folder(path, channels, size)
    if path.is_file():
        if encoder is None:
            raise ConfigError(f"{path}: say whose weights these are: --encoder NAME (a timm name)")
        stated = stated_by_timm(encoder) | {"license": None}  # theirs is of their weights
        return from_file(path, encoder, stated, {}, channels, size)
    raise ConfigError(
        f"{source}: neither timm:NAME, hf:OWNER/REPO, a file, nor a folder in timm's format"
    )


def from_timm(name: str, channels: int, size: int) -> Weights:
    stated = stated_by_timm(name)
    size = size or side_of(stated)
    build_backbone(name, channels=channels, size=size)  # an unknown name fails before the download
    with fetching(f"timm:{name}"):
        backbone = build_backbone(name, channels=channels, size=size, pretrained=True)
    architecture = name.split(".")[0]
    return Weights(backbone, architecture, f"timm, {architecture}.{stated.get('tag', '')}", stated)


def from_hub(name: str, channels: int, size: int) -> Weights:
    """A repository in timm's own format."""
    with fetching(f"hf:{name}"):
        stated, architecture, arguments = load_model_config_from_hf(name)
        arguments = own_arguments(arguments, f"hf:{name}")
        # From that repository alone: its config must not name another address, file or loader.
        source = {
            **{k: v for k, v in stated.items() if k in PRETRAINED_CFG},
            **HUB,
            "hf_hub_id": name,
        }
        size = size or side_of(stated)
        with building(f"hf:{name}"):
            with (
                quietly("meta"),
                bounded(most_here(), f"hf:{name}"),
            ):  # before it is built in earnest
                build_backbone(architecture, channels=channels, size=size, **arguments)
            backbone = build_backbone(
                architecture, channels=channels, size=size, pretrained=True,
                pretrained_cfg=source, **arguments,
            )  # fmt: skip
    return Weights(backbone, architecture, f"the Hub, {name}", stated, model_args=arguments)


def from_folder(folder: Path, channels: int, size: int) -> Weights:
    try:
        config = json.loads((folder / "config.json").read_text())
        architecture = config["architecture"]
        if not isinstance(architecture, str) or not isinstance(
            config.get("pretrained_cfg", {}), dict
        ):
            raise ValueError("architecture must be a name and pretrained_cfg a table")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{folder}/config.json is not timm's: {error!r}") from error
    files = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not files:
        raise ArtifactError(f"{folder}: holds none of {', '.join(WEIGHTS)}")
    # Older files keep what is stated at the top level.
    stated = {**stated_by_timm(architecture), **config, **config.get("pretrained_cfg", {})}
    arguments = own_arguments(config.get("model_args"), f"{folder}/config.json")
    return from_file(files[0], architecture, stated, arguments, channels, size)


def from_file(
    path: Path,
    encoder: str,
    stated: dict[str, Any],
    arguments: dict[str, Any],
    channels: int,
    size: int,
) -> Weights:
    state = read_state(path)
    most = most_of({name: list(value.shape) for name, value in state.items()})
    with building(str(path)), bounded(most, str(path)):
        backbone = build_backbone(
            encoder, channels=channels, size=size or side_of(stated), **arguments
        )
    fitting, left_out = strip_prefix(state, backbone)
    load_strictly(backbone, fitting, path)
    return Weights(
        backbone, encoder.split(".")[0], path.name, stated, sha256_of(path), arguments,
        tuple(sorted(left_out)),
    )  # fmt: skip


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file or of a PyTorch checkpoint, which is read without running code."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # about pickle protocols; what matters is an error below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ArtifactError(
            f"{path}: this is no checkpoint of tensors alone, and loading it could run code. Save the "
            "state_dict, best as safetensors."
        ) from error
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ArtifactError(f"{path}: holds no readable weights ({reason})") from error
    for wrapper in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
            break
    if not isinstance(state, dict) or not any(isinstance(v, Tensor) for v in state.values()):
        raise ArtifactError(f"{path}: holds no state_dict but {type(state).__name__}")
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


def strip_prefix(
    state: dict[str, Tensor], backbone: nn.Module
) -> tuple[dict[str, Tensor], set[str]]:
    """(the backbone's tensors under its own names, names of the others), by the prefix that fits best."""
    wanted = set(backbone.state_dict())
    best = max(PREFIXES, key=lambda prefix: sum(prefix + name in state for name in wanted))
    fitting = {name: state[best + name] for name in wanted if best + name in state}
    return fitting, {name for name in state if name.removeprefix(best) not in fitting}


def own_arguments(arguments: Any, source: str) -> dict[str, Any]:
    """Model arguments without those that follow from the data. Raises ArtifactError for others than
    those that say how a network is built: timm would take addresses and files too."""
    dropped = ("in_chans", "img_size", "num_classes")
    own = {k: v for k, v in dict(arguments or {}).items() if k not in dropped}
    if problems := argument_problems(own):
        raise ArtifactError(f"{source}: {'; '.join(problems)}")
    return own


def side_of(stated: dict[str, Any]) -> int:
    """The input side that goes with the weights, px."""
    return int(stated.get("input_size", (3, 224, 224))[1])
