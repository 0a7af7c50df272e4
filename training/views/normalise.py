"""Images as a backbone takes them, where training makes its own from floats."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Normalise:
    """(x - mean) / std of every channel: [B, C, H, W] on the 0..1 scale -> floats of the same shape.

    EncoderGraph.normalise is the same for uint8 pixels, multiplied out into one product and one sum as
    exports want it. The two differ by rounding, so training and bundles each keep their own.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], device: torch.device | None = None
    ) -> None:
        self.mean = torch.tensor(mean, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(std, device=device).view(1, -1, 1, 1)

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        return (images_BCHW - self.mean) / self.std
