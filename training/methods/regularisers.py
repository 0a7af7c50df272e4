"""What keeps projections from collapsing, behind one small interface.

V views, B images per rank, N images over all ranks, D dims, M slices. A regulariser is a function of
(z_VBD, step) -> scalar, the same number on every rank, differentiable through all ranks' projections.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.distributed as dist
from torch import Tensor

from jepack.errors import ConfigError
from jepack.sigreg import NULL_MEAN, all_reduce_sum, random_directions, sigreg, world_size
from training.settings import TrainConfig

Regulariser = Callable[[Tensor, int], Tensor]

# The value when projections are N(0, I): what a curve may be compared with. None: it depends on N.
FLOORS: dict[str, float | None] = {"sigreg": NULL_MEAN, "visreg": None}
VISREG_EPSILON = 1e-4  # under the root of a variance


def build_regulariser(config: TrainConfig) -> Regulariser:
    """The regulariser that `config.regulariser` names."""
    if config.regulariser not in REGULARISERS:
        known = ", ".join(REGULARISERS)
        raise ConfigError(f"no regulariser {config.regulariser!r}; there are {known}")
    return REGULARISERS[config.regulariser](config)


def sliced_epps_pulley(config: TrainConfig) -> Regulariser:
    """SIGReg with fresh directions every step, the same on every rank."""

    def regulariser(z_VBD: Tensor, step: int) -> Tensor:
        return sigreg(z_VBD, directions_of(z_VBD, step, config))

    return regulariser


def centre_scale_shape(config: TrainConfig) -> Regulariser:
    """VISReg with fresh directions every step, the same on every rank."""

    def regulariser(z_VBD: Tensor, step: int) -> Tensor:
        return visreg(z_VBD, directions_of(z_VBD, step, config))

    return regulariser


def visreg(z_VBD: Tensor, directions_DM: Tensor) -> Tensor:
    """Centre + scale + shape, each at most about 1, averaged over views; near 0 at N(0, I).

    Centre: mean squared mean. Scale: mean over dims of (1 - standard deviation)^2; its gradient stays
    at collapse, where SIGReg's vanishes. Shape: after dividing by the standard deviations, the squared
    distance of each slice's sorted projections from the normal quantiles (sliced Wasserstein).
    Unlike SIGReg it does not grow with N, so it wants a larger lambda.
    Source: arXiv:2606.02572, written from its description; how the terms are weighted (equally) is
    the paper's, keeping the gradient through the standard deviation is ours.
    """
    with torch.autocast(z_VBD.device.type, enabled=False):
        exact = torch.float64 if z_VBD.dtype == torch.float64 else torch.float32
        z_VND = gather_images(z_VBD.to(exact))
        mean = z_VND.mean(dim=1, keepdim=True)
        centred = z_VND - mean
        deviation = (centred.square().mean(dim=1, keepdim=True) + VISREG_EPSILON).sqrt()
        projections_VNM = (centred / deviation) @ directions_DM.to(exact)
        quantiles = quantiles_like(z_VND.shape[1], projections_VNM.device, projections_VNM.dtype)
        shape = (projections_VNM.sort(dim=1).values - quantiles[:, None]).square().mean()
        return mean.square().mean() + (1 - deviation).square().mean() + shape


def normal_quantiles(count: int) -> Tensor:
    """[N] float64: the middles of N equally likely pieces of N(0, 1), ascending."""
    places = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return torch.special.ndtri(places)


@lru_cache(maxsize=4)  # uploading them at every step would make the GPU wait
def quantiles_like(count: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return normal_quantiles(count).to(device, dtype)


def gather_images(z_VBD: Tensor) -> Tensor:
    """[V, N, D] of all ranks, in rank order; the backward pass sums the ranks' gradients.

    Sorting needs the samples themselves: no sum over ranks can replace them.
    """
    if world_size() == 1:
        return z_VBD
    everyone = z_VBD.new_zeros(world_size(), *z_VBD.shape)
    mine = torch.zeros(world_size(), dtype=torch.bool, device=z_VBD.device)
    mine[dist.get_rank()] = True
    placed = torch.where(mine[:, None, None, None], z_VBD, everyone)
    return all_reduce_sum(placed).movedim(0, 1).flatten(1, 2)


def directions_of(z_VBD: Tensor, step: int, config: TrainConfig) -> Tensor:
    return random_directions(
        z_VBD.shape[-1], config.slices, step, seed=config.seed, device=z_VBD.device
    )


REGULARISERS: dict[str, Callable[[TrainConfig], Regulariser]] = {
    "sigreg": sliced_epps_pulley,
    "visreg": centre_scale_shape,
}
