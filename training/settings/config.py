"""The resolved settings of a run, and recipes: functions that return one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from jepack.errors import ConfigError
from training.settings.limits import out_of_range
from training.settings.presets import preset


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a run. Saved beside the weights as `config.json`."""

    # what is learnt
    method: str = "lejepa"  # lejepa or ijepa
    encoder: str = "resnet18"  # timm name
    pretrained: bool = False  # start from timm's published weights
    init: str | None = None  # bundle folder to start from
    global_pool: str | None = None  # timm pooling, None = the model's own
    patch_size: int | None = None  # px, of a ViT; None = the model's own
    projection_dims: int = 64
    projector_hidden: int = 1024
    projector_layers: int = 3
    # what it sees
    preset: str = "natural"  # view preset, see presets.py
    view_overrides: dict[str, Any] = field(default_factory=dict)  # knobs of the preset: view.blur=0
    window: str | None = (
        None  # intensities shown: p1,p99 or lo,hi or dicom; None = 8 bits as they are
    )
    tile: int = 0  # px, side of the windows that large TIFFs are cut into; 0 = whole
    tile_stride: int = 0  # px from window to window; 0 = no overlap
    channels: int = 0  # 0 = decide from the images
    size: int = 224  # px, global views
    local_size: int = 98  # px, local views
    global_views: int = 2
    local_views: int = 6
    stream: bool = False  # decode when a step needs an image, keep no cache
    cache_side: int = 0  # px, shorter side kept in the decoded cache; 0 = 1.25 * size
    eval_size: int = 0  # px, the crop evaluation and serving use; 0 = size
    # how it learns
    images_per_step: int = 256  # over all ranks and micro-batches, before views
    accumulate: int = 1  # micro-batches per step; SIGReg sees the whole step either way
    epochs: float = 100.0
    minutes: float | None = (
        None  # wall-clock budget of steps, evaluations, checkpoints; shortens `epochs`
    )
    learning_rate: float = 5e-4  # peak
    final_lr_fraction: float = 1e-3  # of the peak, at the last step
    warmup_fraction: float = 0.05  # of all steps
    weight_decay: float = 5e-2  # not on biases and norms
    weight_decay_end: float | None = None  # reached by a cosine at the last step; None = constant
    gradient_clip: float = 0.0  # max norm; 0 = off
    regulariser: str = "sigreg"  # sigreg or visreg
    sigreg_weight: float = 0.05  # the paper's lambda, in (0, 1)
    slices: int = 1024
    ema_decay: float = 0.996  # of the evaluated copy of the weights; 0 = none
    # I-JEPA only
    predictor_width: int = 192
    predictor_depth: int = 6
    target_ema: tuple[float, float] = (0.996, 1.0)  # start and end of the target's EMA decay
    # how it runs
    precision: str = (
        "auto"  # bf16, fp32, fp64 for proofs; auto = bf16 where the device computes in it
    )
    activation_checkpointing: bool = False
    sharding: str = "none"  # fsdp = weights, gradients and optimizer split over ranks (LeJEPA)
    compile: bool = False  # torch.compile of the backbone (LeJEPA); minutes before the first step
    seed: int = 0
    workers: int = 2  # threads that cut views
    threads: int = (
        0  # that compute on a CPU; 0 = the number that is fastest, looked at while running
    )
    # what is kept
    checkpoint_minutes: float = 5.0
    keep_checkpoints: int = 3
    evaluate_epochs: float = 1.0
    max_bad: float = 0.01  # fraction of unreadable images that is skipped
    validation_fraction: float = 0.2
    group_by: str | None = None  # manifest column that a split must not cut through

    def __post_init__(self) -> None:
        for problem in self.problems():
            raise ConfigError(problem)
        preset(self.preset, self.view_overrides)  # an unknown name or knob raises

    def problems(self) -> list[str]:
        """Combinations that cannot work, a sentence each."""
        found = out_of_range({name: getattr(self, name) for name in known_settings()})
        if found:  # the rest reckons with them
            return found
        if self.method == "lejepa" and (self.global_views < 1 or self.views < 2):
            found.append(
                f"LeJEPA needs at least 2 views, 1 of them global; found {self.global_views} global "
                f"and {self.local_views} local"
            )
        if self.method == "ijepa" and (self.global_views, self.local_views) != (1, 0):
            found.append(
                "I-JEPA sees one crop of an image: global_views=1 and local_views=0 (the recipe ijepa "
                f"has them); found {self.global_views} global and {self.local_views} local"
            )
        if self.method == "ijepa" and self.predictor_width % 32:  # a head of its attention has 32
            found.append(f"predictor_width must divide by 32, found {self.predictor_width}")
        if self.method == "ijepa" and (self.sharding != "none" or self.compile):
            found.append("sharding and compile work with LeJEPA only; leave them out for ijepa")
        if self.images_per_step % self.accumulate:
            found.append(
                f"images_per_step must divide into {self.accumulate} micro-batches, found "
                f"{self.images_per_step}"
            )
        return found

    def doubts(self) -> list[str]:
        """Settings that may work but usually do not, with the figure behind each."""
        found = []
        if self.method == "lejepa":
            if self.images_per_step < 32:
                found.append(
                    f"{self.images_per_step} images per step: SIGReg's statistic is noisy below 32 "
                    "samples; raise --images-per-step or --accumulate"
                )
            if self.regulariser == "visreg" and self.sigreg_weight < 0.5:
                found.append(
                    f"lambda {self.sigreg_weight} with visreg, which does not grow with the batch as "
                    "sigreg does: its paper uses 0.9 (--sigreg-weight 0.9)"
                )
            if self.regulariser == "sigreg" and not 0.005 <= self.sigreg_weight <= 0.2:
                found.append(
                    f"lambda {self.sigreg_weight} lies outside [0.005, 0.2], the range that has been "
                    "seen to work (0.05 for 8 views, 0.02 for 4, 0.01 for 2)"
                )
            if self.global_views == 1 and self.local_views:
                found.append("one global view costs about 10 points (64.5 against 74.2 with two)")
            if self.local_views and "resnet" in self.encoder and self.local_size != self.size:
                found.append("small local views hurt ResNets: make all views global")
        return found

    @property
    def views(self) -> int:
        return self.global_views + self.local_views

    @property
    def serving_size(self) -> int:
        return self.eval_size or self.size

    @property
    def kept_side(self) -> int:
        """px, the shorter side of an image in the decoded cache."""
        return self.cache_side or round(1.25 * max(self.size, self.serving_size))

    @property
    def encoder_options(self) -> dict[str, Any]:
        """timm arguments that belong to the architecture; the bundle keeps them."""
        options: dict[str, Any] = {}
        if self.global_pool:
            options["global_pool"] = self.global_pool
        if self.patch_size:
            options["patch_size"] = self.patch_size
        if self.method == "ijepa":
            # Patches alone, normalised before they are averaged.
            options |= {"class_token": False, "global_pool": "avg", "fc_norm": False}
        return options

    def building_options(self, *, any_size: bool = False) -> dict[str, Any]:
        """`encoder_options`, and what only training needs: images of more than one size (`any_size`: of sizes
        that these settings do not name). ConfigError where I-JEPA cannot work."""
        from timm.models import is_model_in_modules

        plain_vit = is_model_in_modules(self.encoder, ["vision_transformer"])
        if self.method == "ijepa" and not plain_vit:
            raise ConfigError(
                f"I-JEPA works on plain ViTs, not on {self.encoder}: take any name that "
                "timm.list_models(module='vision_transformer') gives, such as vit_tiny_patch16_224, "
                "or start from --recipe ijepa"
            )
        several_sizes = any_size or (self.local_views > 0 and self.local_size != self.size)
        return self.encoder_options | (
            {"dynamic_img_size": True} if plain_vit and several_sizes else {}
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> TrainConfig:
        unknown = set(value) - set(known_settings())
        if unknown:
            raise ConfigError(f"unknown settings: {', '.join(sorted(unknown))}")
        return cls(**{**value, "target_ema": tuple(value.get("target_ema", (0.996, 1.0)))})


def known_settings() -> tuple[str, ...]:
    return tuple(field.name for field in fields(TrainConfig))
