"""The encoder: timm backbone + MLP projector, and the graph that serving runs. torch + timm.

B images, H x W pixels, C channels, E embedding dims, D projection dims.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from jepack.bundle import Bundle
from jepack.decoding import Preprocessing
from jepack.errors import ArtifactError, ConfigError
from jepack.measures import Calibration
from jepack.network import arguments_of, build_backbone, building, check_network


@dataclass(frozen=True, kw_only=True)
class ProjectorConfig:
    """Shape of the projection head: `layers` linear maps, BatchNorm and ReLU between them."""

    in_features: int
    hidden: int = 512
    out_features: int = 64
    layers: int = 3


class Projector(nn.Sequential):
    """Embedding [B, E] -> raw projection [B, D]. BatchNorm matters: see arXiv:2511.08544, section 6."""

    def __init__(self, config: ProjectorConfig) -> None:
        if config.layers < 1:
            raise ConfigError(f"a projector needs at least 1 layer, found {config.layers}")
        layers: list[nn.Module] = []
        width = config.in_features
        for _ in range(config.layers - 1):
            layers += [nn.Linear(width, config.hidden, bias=False), nn.BatchNorm1d(config.hidden)]
            layers += [nn.ReLU()]
            width = config.hidden
        layers += [nn.Linear(width, config.out_features)]
        super().__init__(*layers)
        self.config = config


class Encoder(nn.Module):
    """Normalised float images [B, C, H, W] -> (embedding [B, E], raw projection [B, D])."""

    def __init__(self, backbone: nn.Module, projector: Projector) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.backbone(images)
        return embedding, self.projector(embedding)


def build_encoder(
    name: str,
    *,
    channels: int,
    size: int,
    projection_dims: int = 64,
    hidden: int = 512,
    layers: int = 3,
    pretrained: bool = False,
    **options: Any,
) -> Encoder:
    backbone = build_backbone(name, channels=channels, size=size, pretrained=pretrained, **options)
    config = ProjectorConfig(
        in_features=embedding_dims(backbone, channels, size),
        hidden=hidden,
        out_features=projection_dims,
        layers=layers,
    )
    return Encoder(backbone, Projector(config))


@torch.no_grad()
def embedding_dims(backbone: nn.Module, channels: int, size: int) -> int:
    """Width of the pooled features, asked of the model: poolings that concatenate widen it."""
    first = next(backbone.parameters())
    training = backbone.training
    blank = torch.zeros(1, channels, size, size, device=first.device, dtype=first.dtype)
    width = int(backbone.eval()(blank).shape[-1])
    backbone.train(training)
    return width


class EncoderGraph(nn.Module):
    """What every export holds: uint8 pixels [B, H, W, C] -> (embedding [B, E], projection [B, D]).

    Normalisation is inside; the calibration is folded into the projector's last linear layer.
    """

    scale: Tensor  # [1, C, 1, 1]: pixels * scale + shift is the normalised image
    shift: Tensor

    def __init__(self, encoder: Encoder, preprocessing: Preprocessing, calibration: Calibration):
        super().__init__()
        self.backbone = encoder.backbone
        self.projector = fold_calibration(encoder.projector, calibration)
        mean = torch.tensor(preprocessing.mean, dtype=torch.float32).view(1, -1, 1, 1)
        std = torch.tensor(preprocessing.std, dtype=torch.float32).view(1, -1, 1, 1)
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)

    def normalise(self, pixel_values: Tensor) -> Tensor:
        """[B, C, H, W] as the backbone takes it."""
        return pixel_values.permute(0, 3, 1, 2).to(self.scale.dtype) * self.scale + self.shift

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.backbone(self.normalise(pixel_values))
        return embedding, self.projector(embedding)


def fold_calibration(projector: Projector, calibration: Calibration) -> Projector:
    """A projector whose output is calibrated: (W x + b - mean) A, multiplied out in float64."""
    folded = Projector(projector.config)
    folded.load_state_dict(projector.state_dict())
    folded.to(next(projector.parameters()).device).train(projector.training)
    last = folded[-1]
    assert isinstance(last, nn.Linear)
    device = last.weight.device
    matrix = torch.from_numpy(calibration.matrix).to(device)
    mean = torch.from_numpy(calibration.mean).to(device)
    with torch.no_grad():
        last.weight.copy_(matrix.T @ last.weight.double())
        last.bias.copy_((last.bias.double() - mean) @ matrix)
    return folded


def load_encoder(bundle: Bundle, **options: Any) -> tuple[Encoder, Calibration]:
    """The float32 encoder of a verified bundle, in eval mode, and its calibration.

    `options` are further timm arguments that change no weight, such as `dynamic_img_size`. Nothing but the
    bundle's own files is read. Raises ArtifactError where config.json asks for more than the network of the
    bundle's weights, before it takes memory.
    """
    config = check_network(bundle)
    arguments = {**arguments_of(config, bundle.preprocessing.size), **options}
    with building(f"{bundle.folder}/config.json"):
        backbone = build_backbone(
            config["architecture"], channels=bundle.preprocessing.channels, **arguments
        )
    projector = Projector(ProjectorConfig(**config["jepack"]["projector"]))
    head = load_file(bundle.folder / "projector.safetensors")
    mean = head.pop("calibration.mean").double().numpy()
    matrix = head.pop("calibration.matrix").double().numpy()
    load_strictly(backbone, load_file(bundle.folder / "model.safetensors"), bundle.folder)
    load_strictly(projector, head, bundle.folder)
    return Encoder(backbone, projector).eval(), Calibration(mean, matrix)


def load_strictly(module: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise ArtifactError(
            f"{source}: the weights do not fit the architecture that config.json names "
            f"({len(lines) - 1} problems, first: {lines[1].strip() if len(lines) > 1 else lines[0]})"
        ) from error


def serving_graph(bundle: Bundle) -> EncoderGraph:
    """The graph that exports and `golden.safetensors` hold, on the CPU in eval mode."""
    encoder, calibration = load_encoder(bundle)
    return EncoderGraph(encoder, bundle.preprocessing, calibration).eval()


def encoder_files(
    encoder: Encoder,
    calibration: Calibration,
    preprocessing: Preprocessing,
    *,
    architecture: str,
    method: str,
    license: str,
    model_args: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """(config.json, model.safetensors tensors, projector.safetensors tensors) of a bundle."""
    backbone: Any = encoder.backbone
    size, channels = preprocessing.size, preprocessing.channels
    pretrained_cfg = {
        "input_size": [channels, size, size],
        "fixed_input_size": False,
        "interpolation": preprocessing.interpolation,
        "crop_pct": preprocessing.crop_pct,
        "crop_mode": preprocessing.crop_mode,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "num_classes": 0,
        "first_conv": backbone.pretrained_cfg.get("first_conv"),
        "classifier": backbone.pretrained_cfg.get("classifier"),
        "license": license,
    }
    arguments: dict[str, Any] = {"in_chans": channels, **(model_args or {})}
    if backbone.pretrained_cfg.get("fixed_input_size"):
        arguments["img_size"] = size  # its weights fit this size alone
    config = {
        "architecture": architecture.split(".")[0],
        "num_classes": 0,
        "num_features": encoder.projector.config.in_features,
        "global_pool": getattr(backbone, "global_pool", "avg")
        if isinstance(getattr(backbone, "global_pool", ""), str)
        else getattr(backbone.global_pool, "pool_type", "avg"),
        "model_args": arguments,
        "pretrained_cfg": pretrained_cfg,
        "jepack": {"projector": asdict(encoder.projector.config), "method": method},
    }
    head = cpu_state(encoder.projector)
    head["calibration.mean"] = torch.from_numpy(calibration.mean).float()
    head["calibration.matrix"] = torch.from_numpy(calibration.matrix).float()
    return config, cpu_state(backbone), head


def cpu_state(module: nn.Module) -> dict[str, Tensor]:
    state = module.state_dict()
    return {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
