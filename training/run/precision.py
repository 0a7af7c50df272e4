"""The precision that `auto` means: bfloat16 where it is faster."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn


def faster_in_bf16(encoder: str, device: torch.device) -> bool:
    """Whether to train this timm network in bfloat16 here.

    The device needs instructions for it; emulated, it is several times slower. On a CPU the networks of the
    MobileNet kind are left in float32: of EfficientNet-Lite0 a step takes 1.8 times as long in bfloat16, of
    MobileNetV3 2.5 times; of ResNets, RegNets and ConvNeXts .6 to .9.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    told: Any = getattr(torch.cpu, "get_capabilities", dict)()
    native = bool(told.get("avx512_bf16") or told.get("amx_bf16") or told.get("bf16"))
    return native and not of_mobilenet_kind(encoder)


def of_mobilenet_kind(encoder: str) -> bool:
    """Whether it convolves channel by channel (depthwise) and normalises by BatchNorm."""
    if not timm.is_model(encoder):
        return False
    with torch.device("meta"):
        modules = list(timm.create_model(encoder, num_classes=0).modules())
    depthwise = any(isinstance(m, nn.Conv2d) and 1 < m.groups == m.in_channels for m in modules)
    return depthwise and any(isinstance(m, nn.BatchNorm2d) for m in modules)
