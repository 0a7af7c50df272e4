"""The moving average of an encoder's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class Average(AveragedModel):
    """Weights and buffers averaged by torch's names and counter, but without a wait for the device.

    The decay grows from 0.1, so that a young average forgets the initial weights. Shards follow the
    model's shards: nothing is sent between ranks.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        count = int(self.n_averaged)  # on the CPU
        share = 1 - min(self.decay, (1 + count) / (10 + count))
        own = [*self.module.parameters(), *self.module.buffers()]
        theirs = [*model.parameters(), *model.buffers()]
        pairs = [(local(a.detach()), local(b.detach())) for a, b in zip(own, theirs, strict=True)]
        moving = [pair for pair in pairs if count and pair[0].is_floating_point()]
        copied = [pair for pair in pairs if not (count and pair[0].is_floating_point())]
        if moving:
            averages, current = zip(*moving, strict=True)
            torch._foreach_lerp_(averages, current, share)
        if copied:  # everything in the first step, and BatchNorm's counters
            averages, current = zip(*copied, strict=True)
            torch._foreach_copy_(averages, current)
        self.n_averaged += 1


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor; other tensors as they are."""
    return getattr(tensor, "to_local", lambda: tensor)()  # type: ignore[no-any-return]
