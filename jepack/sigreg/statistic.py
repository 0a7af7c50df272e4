"""SIGReg: how far projections are from N(0, I), sliced and differentiable.

V views, N images over all ranks, B images on this rank, D dimensions, M slices, T knots.
Source: arXiv:2511.08544, section 4, written from the formulas. docs/sigreg.md tells how it is computed.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from jepack.measures.isotropy import KNOTS, T_MAX
from jepack.sigreg import tiles
from jepack.sigreg.sharing import alone

NULL_MEAN = (
    1.0525  # the statistic's expectation at N(0, I), any N (jepack.measures.isotropy.null_moments)
)
IMPLEMENTATIONS = ("auto", "plain", "tiles", "triton")

logger = logging.getLogger(__name__)


def random_directions(
    dimensions: int, slices: int, step: int, *, seed: int = 0, device: torch.device | str = "cpu"
) -> Tensor:
    """[D, M] float32 unit columns that depend on (seed, step) alone, so every rank draws the same.

    Drawn on the CPU: a CUDA generator would give other numbers and break resume across devices.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % (1 << 63))
    directions = torch.randn(dimensions, slices, generator=generator)
    directions = directions / directions.norm(dim=0)
    if torch.device(device).type == "cuda":  # from ordinary memory the copy would wait for the GPU
        directions = directions.pin_memory()
    return directions.to(device, non_blocking=True)


def sigreg(
    z_VBD: Tensor,
    directions_DM: Tensor,
    *,
    knots: int = KNOTS,
    t_max: float = T_MAX,
    implementation: str = "auto",
) -> Tensor:
    """How far the projections are from N(0, I); lower is better, about 1.05 at the target.

    Each view is its own sample; the result is the mean over views and slices. Scalar, proportional to
    the global batch. Under an initialised process group the characteristic function is averaged over
    ranks with gradient, so all ranks must pass the same directions and as many images.
    Computed in float32 (float64 if given), autocast off. The directions get no gradient.

    `implementation`: "tiles" (PyTorch, any device), "triton" (fused kernels, CUDA, float32), "plain" (the
    formula written out, [V, B, M, T] in memory; to compare with); "auto" takes triton where it can.
    """
    if z_VBD.ndim != 3:
        raise ValueError(f"projections must be [V, B, D], found {tuple(z_VBD.shape)}")
    if directions_DM.ndim != 2 or len(directions_DM) != z_VBD.shape[2]:
        raise ValueError(
            f"directions must be [D, M] with D = {z_VBD.shape[2]}, found {tuple(directions_DM.shape)}"
        )
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation must be one of {IMPLEMENTATIONS}, not {implementation!r}")
    with torch.autocast(z_VBD.device.type, enabled=False):
        exact = torch.float64 if z_VBD.dtype == torch.float64 else torch.float32
        z, directions = z_VBD.to(exact), directions_DM.detach().to(exact)
        if implementation == "plain":
            return _plain(z, directions, knots, t_max)
        engine = _engine(implementation, z)
        return _Statistic.apply(z, directions, knots, t_max, engine)  # type: ignore[no-any-return]


def collapse_value(samples: int) -> float:
    """The statistic when every projection is 0: about 0.402 * samples."""
    target, weights = quadrature(KNOTS, T_MAX, torch.zeros((), dtype=torch.float64))
    return samples * float((weights * (1 - target[:, 0]).square()).sum())


def quadrature(knots: int, t_max: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Knots t_1.. (t_0 = 0 adds nothing): target [T-1, 2] = (phi(t), 0) with phi = exp(-t^2 / 2), and
    weights [T-1] = phi(t) times the trapezoid rule's on [-t_max, t_max]."""
    return _quadrature(knots, t_max, like.device, like.dtype)


@lru_cache(maxsize=16)  # a copy to the GPU at every step would make the GPU wait
def _quadrature(
    knots: int, t_max: float, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    if knots < 3 or t_max <= 0:
        raise ValueError(f"needs at least 3 knots and t_max > 0, found {knots} and {t_max}")
    with torch.inference_mode(False):
        t = torch.linspace(0, t_max, knots, dtype=torch.float64)[1:]
        phi = torch.exp(-t.square() / 2)
        weights = phi * (2 * t_max / (knots - 1))
        weights[-1] /= 2
        target = torch.stack([phi, torch.zeros_like(phi)], dim=1)
        return target.to(device, dtype), weights.to(device, dtype)


class _Statistic(torch.autograd.Function):
    """The statistic from an engine's sums, and its gradient from the engine's trigonometric series.

    With e = mean(cos, sin) - (phi, 0) the statistic is N / (V M) * sum of w e^2, so its derivative by a
    projection x is 2 / (V M) * sum_k w_k t_k (e_sin cos(t_k x) - e_cos sin(t_k x)). Saved: z, the
    directions and w e; the engine projects again in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, directions: Tensor, knots: int, t_max: float, engine: ModuleType
    ) -> Tensor:
        spacing = t_max / (knots - 1)
        samples = z.shape[1] * world_size()
        with alone(z):
            sums_VT2M = engine.sums(z, directions * spacing, knots)
        if world_size() > 1:
            dist.all_reduce(sums_VT2M)
        with alone(z):
            target, weights = quadrature(knots, t_max, z)
            error = torch.sub(sums_VT2M / samples, target[:, :, None])
            weighted = error * weights[:, None, None]
            ctx.save_for_backward(z, directions, weighted)
            ctx.engine, ctx.spacing = engine, spacing
            scale = samples / (len(z) * directions.shape[1])
            return torch.dot(weighted.flatten(), error.flatten()) * scale

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        z, directions, weighted_VT2M = ctx.saved_tensors
        if world_size() > 1:  # every rank's loss depends on this rank's sums
            grad = grad.clone()
            dist.all_reduce(grad)
        scale = 2 * ctx.spacing / (len(z) * directions.shape[1])
        with alone(z), torch.autocast(z.device.type, enabled=False):
            series = ctx.engine.gradient(z, directions, ctx.spacing, weighted_VT2M)
            return series.mul_(grad * scale), None, None, None, None


def _plain(z: Tensor, directions: Tensor, knots: int, t_max: float) -> Tensor:
    """The formula as one would first write it; what tests and benchmarks compare with."""
    target, weights = quadrature(knots, t_max, z)
    t = torch.linspace(0, t_max, knots, dtype=torch.float64)[1:].to(z)
    angles_VBMT = (z @ directions)[..., None] * t
    cos = all_reduce_sum(angles_VBMT.cos().mean(dim=1)) / world_size()
    sin = all_reduce_sum(angles_VBMT.sin().mean(dim=1)) / world_size()
    statistic_VM = ((cos - target[:, 0]).square() + sin.square()) @ weights
    return z.shape[1] * world_size() * statistic_VM.mean()


def _engine(implementation: str, z: Tensor) -> ModuleType:
    """A module with `sums` and `gradient`."""
    fits = z.device.type == "cuda" and z.dtype == torch.float32
    if implementation == "triton" or (implementation == "auto" and fits and _can_build_triton()):
        if z.dtype != torch.float32:
            raise ValueError("the triton implementation computes in float32; pass float32 or lower")
        from jepack.sigreg import kernels

        return kernels
    return tiles


@lru_cache(maxsize=1)
def _can_build_triton() -> bool:
    """Triton compiles its launcher with the system's C compiler, so it needs both."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    buildable = importlib.util.find_spec("triton") is not None and compiler is not None
    if not buildable:
        logger.warning(
            "SIGReg runs without its fused GPU kernel: %s. Install %s for more speed.",
            "no C compiler found" if compiler is None else "no triton package found",
            "gcc" if compiler is None else "triton",
        )
    return buildable


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total


def all_reduce_sum(value: Tensor) -> Tensor:
    """Sum over ranks whose backward sums the ranks' gradients (gloo has no AVG; divide yourself)."""
    if world_size() == 1:
        return value
    return _AllReduceSum.apply(value)  # type: ignore[no-any-return]
