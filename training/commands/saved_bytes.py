"""How many bytes autograd keeps for a backward pass, counted as it keeps them and lets them go."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from training.run import local


class SavedBytes:
    """The most bytes that autograd kept for a backward pass at any one time, weights not counted."""

    def __init__(self, module: nn.Module) -> None:
        weights = [*module.parameters(), *module.buffers()]
        self.skipped = {local(part).untyped_storage().data_ptr() for part in weights}
        self.holders: Counter[int] = Counter()
        self.now = self.peak = 0
        self.hooks: Any = torch.autograd.graph.saved_tensors_hooks(self.pack, Held.give)

    def pack(self, tensor: Tensor) -> Held:
        return Held(tensor, self)

    def hold(self, pointer: int, size: int) -> None:
        self.holders[pointer] += 1
        if self.holders[pointer] == 1:
            self.now += size
            self.peak = max(self.peak, self.now)

    def release(self, pointer: int, size: int) -> None:
        self.holders[pointer] -= 1
        if self.holders[pointer] == 0:
            self.now -= size


class Held:
    """One tensor in autograd's keeping; counts itself out when the graph lets it go."""

    def __init__(self, tensor: Tensor, total: SavedBytes) -> None:
        self.tensor, self.total = tensor, total
        storage = local(tensor.detach()).untyped_storage()
        self.pointer, self.size = storage.data_ptr(), storage.nbytes()
        self.counted = self.pointer not in total.skipped
        if self.counted:
            total.hold(self.pointer, self.size)

    def __del__(self) -> None:
        if self.counted:
            self.total.release(self.pointer, self.size)

    def give(self) -> Tensor:
        return self.tensor
