"""The settings of a run in groups, as a person thinks of them; `TrainConfig` is all of them.

TrainConfig inherits every group: names stay flat in `--set`, in config.json and in the code.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """What is learnt: the backbone and its projector."""

    method: str = "lejepa"  # lejepa or ijepa
    encoder: str = "resnet18"  # timm name
    global_pool: str | None = None  # timm pooling, None = the model's own
    patch_size: int | None = None  # px, of a ViT; None = the model's own
    depth: int | None = None  # blocks of a ViT; None = the model's own
    width: int | None = None  # dims of a ViT, 64 to a head; None = the model's own
    projection_dims: int = 64
    projector_hidden: int = 1024
    projector_layers: int = 3
    ema_decay: float = 0.996  # of the evaluated copy of the weights; 0 = none


@dataclass(frozen=True, kw_only=True)
class StartSettings:
    """Which weights it starts from, and what of them stays."""

    pretrained: bool = False  # start from timm's published weights
    init: str | None = None  # bundle folder to start from
    # of `init` the backbone alone; the projector gets random weights, see `projector_layers`
    new_projector: bool = False
    # share of the steps in which the projector alone learns; the backbone's rate grows for as many more
    projector_first: float = 0.0
    backbone_rate: float = 1.0  # of the learning rate
    frozen_stages: float = (
        0.0  # share of the backbone's stages that stay as they are, from the pixels on
    )
    frozen_norms: bool = False  # BatchNorms of the backbone keep their running figures and use them
    # a run that ends below the weights it started from writes a bundle of those; a sweep never does
    keep_start: bool = False


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which images are learnt from, and how they are read."""

    # intensities shown: p1,p99 or lo,hi or dicom; None = 8 bits as they are
    window: str | None = None
    # how an image fills the square: crop, pad or squash; None = as the bundle of `init`, else crop
    fit: str | None = None
    tile: int = 0  # px, side of the windows that large TIFFs are cut into; 0 = whole
    tile_stride: int = 0  # px from window to window; 0 = no overlap
    channels: int = 0  # 0 = decide from the images
    stream: bool = False  # decode when a step needs an image, keep no cache
    cache_side: int = (
        0  # px, side kept in the decoded cache (of `crop` the shorter); 0 = 1.25 * size
    )
    max_bad: float = 0.01  # fraction of unreadable images that is skipped
    validation_fraction: float = 0.2
    group_by: str | None = None  # manifest column that a split must not cut through


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """What the encoder is told is the same image."""

    preset: str = "natural"  # view preset, see presets.py
    view_overrides: dict[str, Any] = field(default_factory=dict)  # knobs of the preset: view.blur=0
    size: int = 224  # px, global views
    local_size: int = 98  # px, local views
    global_views: int = 2
    local_views: int = 6


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """What keeps projections apart."""

    regulariser: str = "sigreg"  # sigreg or visreg
    sigreg_weight: float = 0.05  # the paper's lambda, in (0, 1)
    slices: int = 1024


@dataclass(frozen=True, kw_only=True)
class IJEPASettings:
    """I-JEPA only."""

    predictor_width: int = 192
    predictor_depth: int = 6
    target_ema: tuple[float, float] = (0.996, 1.0)  # start and end of the target's EMA decay
    # how features become targets: layer (each patch's own mean and deviation) or batch (each place's mean
    # over the step's images, each dim's deviation over images and places)
    target_norm: str = "layer"


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """How long and how fast it learns."""

    images_per_step: int = 256  # over all ranks and micro-batches, before views
    accumulate: int = 1  # micro-batches per step; SIGReg sees the whole step either way
    epochs: float = 100.0
    # wall-clock budget of steps, evaluations, checkpoints; shortens `epochs`
    minutes: float | None = None
    learning_rate: float = 5e-4  # peak
    final_lr_fraction: float = 1e-3  # of the peak, at the last step
    warmup_fraction: float = 0.05  # of all steps
    weight_decay: float = 5e-2  # not on biases and norms
    weight_decay_end: float | None = None  # reached by a cosine at the last step; None = constant
    gradient_clip: float = 0.0  # max norm; 0 = off


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """On what it runs, and what is kept of it."""

    precision: str = "auto"  # bf16, fp32, fp64 for proofs; auto = bf16 where the device has it
    activation_checkpointing: bool = False
    sharding: str = "none"  # fsdp = weights, gradients and optimizer split over ranks (LeJEPA)
    compile: bool = False  # torch.compile of the backbone (LeJEPA); minutes before the first step
    seed: int = 0
    workers: int = 2  # threads that cut views
    # threads that compute on a CPU; 0 = the number that is fastest, looked at while running
    threads: int = 0
    checkpoint_minutes: float = 5.0
    keep_checkpoints: int = 3
    evaluate_epochs: float = 1.0
    eval_size: int = 0  # px, the crop evaluation and serving use; 0 = size


# What a person calls each group; `jepack train --help` shows its options under this name.
GROUPS: dict[str, type] = {
    "Encoder": EncoderSettings,
    "Start": StartSettings,
    "Data": DataSettings,
    "Views": ViewSettings,
    "Loss": LossSettings,
    "I-JEPA": IJEPASettings,
    "Schedule": ScheduleSettings,
    "Run": RunSettings,
}


def group_of(setting: str) -> str:
    """The name of the group that holds a setting."""
    (name,) = (
        name for name, group in GROUPS.items() if setting in {one.name for one in fields(group)}
    )
    return name
