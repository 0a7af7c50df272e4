"""Ranks: one process or many under torchrun, and a BatchNorm over all of them."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from jepack.errors import TrainingError
from jepack.sigreg import all_reduce_sum, world_size

# Words of gloo and NCCL when the other end of a connection is gone.
LOST = (
    "Connection reset by peer", "Connection closed by peer", "Broken pipe", "remote process exited",
)  # fmt: skip


@dataclass(frozen=True)
class Ranks:
    """Where this process stands."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0


@contextmanager
def ranks(device: str | None = None) -> Iterator[Ranks]:
    """Join the process group that torchrun set up, or run alone. `device` None picks a GPU if any."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    if device is None:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world == 1:
        yield Ranks(0, 1, chosen)
        return
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=datetime.timedelta(minutes=30))
    try:
        yield Ranks(rank, world, chosen)
    except RuntimeError as error:
        if not any(sign in str(error) for sign in LOST):
            raise
        first = str(error).strip().splitlines()[0][-160:]
        raise TrainingError(
            f"rank {rank} lost another rank ({first}). The one that failed first says why; if it says "
            "nothing, it was killed, often for memory. The same command continues from the last checkpoint."
        ) from error
    finally:
        dist.destroy_process_group()


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()


def broadcast(value: Any) -> Any:
    """Rank 0's Python value, on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether any rank says so."""
    if world_size() == 1:
        return flag
    value = torch.tensor(float(flag), device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())


class GlobalBatchNorm(_BatchNorm):
    """BatchNorm over all ranks' samples, on any backend (torch's SyncBatchNorm needs a GPU).

    Same parameters and buffers as BatchNorm1d and 2d; equal sample counts on every rank.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, found {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        exact = input.double() if input.dtype == torch.float64 else input.float()
        axes = [axis for axis in range(input.dim()) if axis != 1]
        count = exact.numel() // exact.shape[1] * world_size()
        mean = all_reduce_sum(exact.sum(dim=axes)) / count
        shape = [1, -1, *[1] * (input.dim() - 2)]
        centred = exact - mean.view(shape)
        variance = all_reduce_sum(centred.square().sum(dim=axes)) / count
        self._track(mean.detach(), variance.detach(), count)
        result = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            result = result * self.weight.view(shape) + self.bias.view(shape)
        return result.to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            momentum = 1.0 / float(self.num_batches_tracked)
        unbiased = variance * count / max(1, count - 1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


def synchronise_batchnorm(module: nn.Module, device: torch.device) -> nn.Module:
    """Every BatchNorm replaced by one over all ranks; a single process keeps its own."""
    if world_size() == 1:
        return module
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-any-return]
    return _convert(module)


def _convert(module: nn.Module) -> nn.Module:
    if isinstance(module, _BatchNorm) and not isinstance(module, GlobalBatchNorm):
        # Keeps subclasses that fuse an activation (timm's BatchNormAct2d): only the maths changes.
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
            module.__class__ = GlobalBatchNorm
        elif hasattr(module, "act"):
            module.__class__ = _GlobalBatchNormAct
    for child in module.children():
        _convert(child)
    return module


class _GlobalBatchNormAct(GlobalBatchNorm):
    """timm's BatchNormAct2d: normalise, drop, activate."""

    def forward(self, input: Tensor) -> Tensor:
        normalised = super().forward(input)
        return self.act(self.drop(normalised))  # type: ignore[no-any-return,operator]
