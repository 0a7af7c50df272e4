"""BatchNorm over all ranks' samples: CPU and GPU, NCCL and gloo, for every kind of BatchNorm in timm.

torch's own SyncBatchNorm needs a GPU, waits for it in every layer (it looks for ranks without samples),
and its conversion drops the activation that timm's BatchNormAct2d holds.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from jepack.errors import ConfigError
from jepack.sigreg import all_reduce_sum, world_size


class GlobalBatchNorm(_BatchNorm):
    """BatchNorm over all ranks' samples, on any backend.

    Same parameters and buffers as BatchNorm1d, 2d and 3d; equal sample counts on every rank.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, found {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        tracked = self.running_mean is not None and self.running_var is not None
        momentum = self._count() if tracked else 0.0
        if input.device.type == "cuda":
            mean, variance = (self.running_mean, self.running_var) if tracked else (None, None)
            return _Fused.apply(  # type: ignore[no-any-return]
                input, self.weight, self.bias, mean, variance, self.eps, momentum
            )
        exact = input.double() if input.dtype == torch.float64 else input.float()
        axes = [axis for axis in range(input.dim()) if axis != 1]
        count = exact.numel() // exact.shape[1] * world_size()
        mean = all_reduce_sum(exact.sum(dim=axes)) / count
        shape = [1, -1, *[1] * (input.dim() - 2)]
        centred = exact - mean.view(shape)
        variance = all_reduce_sum(centred.square().sum(dim=axes)) / count
        if tracked:
            self._track(mean.detach(), variance.detach(), count, momentum)
        result = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            result = result * self.weight.view(shape) + self.bias.view(shape)
        return result.to(input.dtype)

    def _count(self) -> float:
        """One batch more; how much of it the running figures take."""
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        return 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum

    def _track(self, mean: Tensor, variance: Tensor, count: int, momentum: float) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        unbiased = variance * count / max(1, count - 1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


class GlobalBatchNormAct(GlobalBatchNorm):
    """timm's BatchNormAct2d over all ranks: normalise, drop, activate."""

    def forward(self, input: Tensor) -> Tensor:
        normalised = super().forward(input)
        return self.act(self.drop(normalised))  # type: ignore[no-any-return,operator]


class _Fused(torch.autograd.Function):
    """torch's kernels for a BatchNorm over ranks, without the wait for the device between them."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Any, bias: Any, running_mean: Any, running_var: Any,
        eps: float, momentum: float,
    ) -> Tensor:  # fmt: skip
        input = dense(input)
        world, channels = world_size(), input.shape[1]
        counts = [input.numel() // channels] * world  # equal by contract
        mine = torch.cat(torch.batch_norm_stats(input, eps))  # mean and 1 / deviation, [2 C]
        everyone = [torch.empty_like(mine) for _ in range(world)]
        dist.all_gather(everyone, mine)
        mean_WC, inverse_WC = torch.stack(everyone).split(channels, dim=1)
        count_W = _counts(tuple(counts), mine.device, mine.dtype)
        mean, inverse = torch.batch_norm_gather_stats_with_counts(
            input, mean_WC.contiguous(), inverse_WC.contiguous(), running_mean, running_var, momentum, eps,
            count_W if running_mean is None else count_W.to(running_mean.dtype),
        )  # fmt: skip
        ctx.save_for_backward(input, weight, mean, inverse)
        ctx.counts = _counts(tuple(counts), mine.device, torch.int32)
        return torch.batch_norm_elemt(input, weight, bias, mean, inverse, eps)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        input, weight, mean, inverse = ctx.saved_tensors
        grad, needs = dense(grad), ctx.needs_input_grad
        sum_dy, sum_dy_centred, of_weight, of_bias = torch.batch_norm_backward_reduce(
            grad, input, mean, inverse, weight, needs[0], needs[1], needs[2]
        )
        of_input = None
        if needs[0]:
            sums = torch.cat([sum_dy, sum_dy_centred])
            dist.all_reduce(sums)
            if weight is not None and weight.dtype != mean.dtype:
                weight = weight.to(mean.dtype)
            sum_dy, sum_dy_centred = sums.split(len(sum_dy))
            of_input = torch.batch_norm_backward_elemt(
                grad, input, mean, inverse, weight, sum_dy, sum_dy_centred, ctx.counts
            )
        return of_input, of_weight if needs[1] else None, of_bias if needs[2] else None, *[None] * 4


def dense(x: Tensor) -> Tensor:
    """As the kernels want it: contiguous, or channels last."""
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x
    return x.contiguous()


_COUNTS: dict[Any, Tensor] = {}


def _counts(counts: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """[W] on the device, kept: uploading them at every layer would wait for it."""
    key = counts, device, dtype
    if key not in _COUNTS:
        _COUNTS[key] = torch.tensor(counts, device=device, dtype=dtype)
    return _COUNTS[key]


def synchronise_batchnorm(module: nn.Module) -> nn.Module:
    """Every BatchNorm becomes one over all ranks, in place; a single process keeps its own.

    Raises ConfigError where a BatchNorm of another class does more than normalise: it would stay one
    of each rank, and training another network than one process does.
    """
    if world_size() == 1:
        return module
    for name, part in module.named_modules():
        if isinstance(part, _BatchNorm) and not isinstance(part, GlobalBatchNorm):
            part.__class__ = global_class(type(part), name)
    return module


def global_class(local_class: type[_BatchNorm], name: str) -> type[GlobalBatchNorm]:
    """The class over all ranks that computes what `local_class` does."""
    if issubclass(local_class, BatchNormAct2d) and local_class.forward is BatchNormAct2d.forward:
        return GlobalBatchNormAct
    if local_class.forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward):
        return GlobalBatchNorm
    raise ConfigError(
        f"{name} is a {local_class.__name__}, a BatchNorm that jepack cannot compute over several ranks. "
        "Train it in one process (without torchrun), or take another encoder"
    )
