"""Recipes: functions that return the settings of a run, each with its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from jepack.errors import ConfigError
from training.settings.config import TrainConfig


def quickstart() -> TrainConfig:
    """A small ResNet that learns something visible in minutes on two CPU cores."""
    return TrainConfig(
        encoder="resnet10t",
        size=64,
        eval_size=96,
        global_views=4,
        local_views=0,
        images_per_step=128,
        slices=256,
        projector_hidden=512,
        learning_rate=2e-3,
        weight_decay=5e-4,
        warmup_fraction=0.1,
        ema_decay=0.95,
        epochs=12,
        minutes=6.0,
        sigreg_weight=0.02,
        evaluate_epochs=1,
    )


def small_domain() -> TrainConfig:
    """Thousands of images, one GPU, a few hours at most: ResNet-18, all views global."""
    return replace(resnet(), encoder="resnet18", size=128, eval_size=160, epochs=200)


def resnet() -> TrainConfig:
    """ResNet-50 as in the paper's ablations: 8 global views, weight decay 5e-4."""
    return TrainConfig(
        encoder="resnet50", global_views=8, local_views=0, weight_decay=5e-4, sigreg_weight=0.05
    )


def vit_small() -> TrainConfig:
    """ViT-S/16, 2 global and 6 local views."""
    return TrainConfig(encoder="vit_small_patch16_224", local_size=96, projector_hidden=2048)


def vit_base() -> TrainConfig:
    """ViT-B/16, 2 global and 6 local views."""
    return replace(vit_small(), encoder="vit_base_patch16_224", activation_checkpointing=True)


def convnext() -> TrainConfig:
    """ConvNeXtV2-Nano, the paper's Galaxy10 encoder."""
    return TrainConfig(encoder="convnextv2_nano", local_size=96, projector_hidden=2048)


def adapt() -> TrainConfig:
    """On from a trained encoder, gently: what it knows stays, and a run that ends below it keeps it."""
    return TrainConfig(
        size=96,
        global_views=2,
        local_views=0,
        images_per_step=64,
        slices=256,
        projector_hidden=512,
        new_projector=True,
        projector_first=0.12,
        backbone_rate=0.2,
        frozen_stages=0.35,
        frozen_norms=True,
        keep_start=True,
        learning_rate=2.5e-4,
        weight_decay=5e-4,
        warmup_fraction=0.1,
        gradient_clip=1.0,
        sigreg_weight=0.02,
        ema_decay=0.99,
        epochs=4,
    )


def ijepa() -> TrainConfig:
    """I-JEPA with a small ViT: one crop of (.3, 1) of the image, no flip, no colour."""
    return TrainConfig(
        method="ijepa",
        encoder="vit_small_patch16_224",
        preset="none",
        global_views=1,
        local_views=0,
        learning_rate=1e-3,
        warmup_fraction=0.13,
        weight_decay=0.04,
        weight_decay_end=0.4,
        ema_decay=0.0,
        predictor_width=192,
        predictor_depth=6,
        epochs=300,
    )


def ijepa_small() -> TrainConfig:
    """I-JEPA on thousands of small images: a ViT of 4 blocks, targets that tell the images of a step apart.

    Its linear probe was 5.9 points above the untrained ViT's on Earth tiles, its kNN .9: docs/ijepa.md.
    LeJEPA learns more.
    """
    return replace(
        ijepa(),
        encoder="vit_tiny_patch16_224",
        depth=4,
        width=128,
        size=32,
        patch_size=4,
        target_norm="batch",
        target_ema=(0.97, 0.99),
        predictor_width=64,
        predictor_depth=2,
        images_per_step=32,
        epochs=12,
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "quickstart": quickstart,
    "small-domain": small_domain,
    "resnet": resnet,
    "vit_small": vit_small,
    "vit_base": vit_base,
    "convnext": convnext,
    "adapt": adapt,
    "ijepa": ijepa,
    "ijepa-small": ijepa_small,
}


def recipe(name: str) -> TrainConfig:
    if name not in RECIPES:
        raise ConfigError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]()
