"""Learning on from trained weights without losing what they know: what of a backbone learns, when, how fast.

A new projector's first gradients are noise. They would move every weight of the backbone by a full step of
Adam, which costs a linear probe points that the run does not win back.
"""

from __future__ import annotations

from typing import Any

from timm.models import group_parameters
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from jepack.errors import ConfigError
from training.settings import TrainConfig

OF_BACKBONE = "of_backbone"  # marks a group of the optimizer


def freeze_stages(backbone: nn.Module, share: float) -> None:
    """The first stages as timm counts them (the stem is one) learn nothing. Raises ConfigError where timm
    does not know the stages of this network."""
    if not share:
        return
    matcher: Any = getattr(backbone, "group_matcher", None)
    if matcher is None:
        raise ConfigError(
            f"frozen_stages: timm does not say what the stages of {type(backbone).__name__} are; use "
            "--set frozen_stages=0"
        )
    stages = group_parameters(backbone, matcher(coarse=True), return_values=False)
    last = len(stages) - 1  # which learns always
    frozen = {
        name for stage in range(min(last, round(share * len(stages)))) for name in stages[stage]
    }
    for name, parameter in backbone.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)


def hold_norms(backbone: nn.Module) -> None:
    """BatchNorms normalise by their running figures, which stay; their scale and shift learn."""
    for module in backbone.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def backbone_share(config: TrainConfig, step: int, total: int) -> float:
    """The backbone's part of the learning rate at step 0..total-1: none while the projector learns alone,
    growing in a line for as long again, then `backbone_rate`."""
    alone = config.projector_first * total
    grown = 1.0 if not alone else min(1.0, max(0.0, (step + 1 - alone) / alone))
    return config.backbone_rate * grown
