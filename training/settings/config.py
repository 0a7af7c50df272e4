"""The resolved settings of a run: what they must be together, and what follows from them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from jepack.decoding import FITS
from jepack.errors import ConfigError
from training.settings.groups import (
    DataSettings,
    EncoderSettings,
    IJEPASettings,
    LossSettings,
    RunSettings,
    ScheduleSettings,
    StartSettings,
    ViewSettings,
)
from training.settings.limits import out_of_range
from training.settings.presets import preset


@dataclass(frozen=True, kw_only=True)
class TrainConfig(
    RunSettings,
    ScheduleSettings,
    IJEPASettings,
    LossSettings,
    ViewSettings,
    DataSettings,
    StartSettings,
    EncoderSettings,
):
    """Everything that decides a run, by groups (groups.py). Saved beside the weights as `config.json`."""

    def __post_init__(self) -> None:
        for problem in self.problems():
            raise ConfigError(problem)
        preset(self.preset, self.view_overrides)  # an unknown name or knob raises

    def problems(self) -> list[str]:
        """Combinations that cannot work, a sentence each."""
        problems = out_of_range({name: getattr(self, name) for name in known_settings()})
        if problems:  # the rest reckons with them
            return problems
        if self.method == "lejepa" and (self.global_views < 1 or self.views < 2):
            problems.append(
                f"LeJEPA needs at least 2 views, 1 of them global; found {self.global_views} global "
                f"and {self.local_views} local"
            )
        if self.method == "ijepa" and (self.global_views, self.local_views) != (1, 0):
            problems.append(
                "I-JEPA sees one crop of an image: global_views=1 and local_views=0 (the recipe ijepa "
                f"has them); found {self.global_views} global and {self.local_views} local"
            )
        if self.method == "ijepa" and self.predictor_width % 32:  # a head of its attention has 32
            problems.append(f"predictor_width must divide by 32, found {self.predictor_width}")
        if self.width and self.width % 64:  # a head of a ViT has 64
            problems.append(f"width must divide by 64, found {self.width}")
        if self.method == "ijepa" and (self.sharding != "none" or self.compile):
            problems.append("sharding and compile work with LeJEPA only; leave them out for ijepa")
        if self.init and self.pretrained:
            problems.append("init and pretrained name two starts; leave one of them out")
        gentle = self.frozen_stages or self.frozen_norms or self.projector_first
        if (gentle or self.backbone_rate != 1) and (
            self.method != "lejepa" or self.sharding != "none"
        ):
            problems.append(
                "projector_first, backbone_rate, frozen_stages and frozen_norms work with LeJEPA and without "
                "sharding only; leave them out"
            )
        if self.images_per_step % self.accumulate:
            problems.append(
                f"images_per_step must divide into {self.accumulate} micro-batches, found "
                f"{self.images_per_step}"
            )
        return problems

    def doubts(self) -> list[str]:
        """Settings that may work but usually do not, with the figure behind each."""
        doubts = []
        if self.method == "lejepa":
            if self.images_per_step < 32:
                doubts.append(
                    f"{self.images_per_step} images per step: SIGReg's statistic is noisy below 32 "
                    "samples; raise --images-per-step or --accumulate"
                )
            if self.regulariser == "visreg" and self.sigreg_weight < 0.5:
                doubts.append(
                    f"lambda {self.sigreg_weight} with visreg, which does not grow with the batch as "
                    "sigreg does: its paper uses 0.9 (--sigreg-weight 0.9)"
                )
            if self.regulariser == "sigreg" and not 0.005 <= self.sigreg_weight <= 0.2:
                doubts.append(
                    f"lambda {self.sigreg_weight} lies outside [0.005, 0.2], the range that has been "
                    "seen to work (0.05 for 8 views, 0.02 for 4, 0.01 for 2)"
                )
            if self.global_views == 1 and self.local_views:
                doubts.append("one global view costs about 10 points (64.5 against 74.2 with two)")
            if self.local_views and "resnet" in self.encoder and self.local_size != self.size:
                doubts.append("small local views hurt ResNets: make all views global")
        return doubts

    @property
    def views(self) -> int:
        return self.global_views + self.local_views

    @property
    def serving_size(self) -> int:
        return self.eval_size or self.size

    @property
    def kept_side(self) -> int:
        """px, the side of an image in the decoded cache, see `shrink`."""
        return self.cache_side or round(1.25 * max(self.size, self.serving_size))

    @property
    def crop_mode(self) -> str:
        """timm's word for `fit`."""
        return FITS[self.fit or "crop"]

    @property
    def encoder_options(self) -> dict[str, Any]:
        """timm arguments that belong to the architecture; the bundle keeps them."""
        options: dict[str, Any] = {}
        if self.global_pool:
            options["global_pool"] = self.global_pool
        if self.patch_size:
            options["patch_size"] = self.patch_size
        if self.depth:
            options["depth"] = self.depth
        if self.width:
            options |= {"embed_dim": self.width, "num_heads": self.width // 64}
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
