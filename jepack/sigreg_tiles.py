"""SIGReg's sums and gradient in plain PyTorch, tile by tile, in cache.

V views, B images, D dimensions, M slices, T knots; a tile is n images by m slices.
A tile's cosines and sines are one tensor [2, n, m]; each further knot costs two in-place operations on
it. Nothing of size [B, M, T] exists, and of size [B, M] only a block of projections.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")

TILE_SLICES = 256
TILE_ELEMENTS = 1 << 17  # 3.5 MiB of scratch; best of 2^15..2^20 on two kinds of processor
ACCELERATOR_ELEMENTS = 1 << 22  # elsewhere launches cost more than lost caches
BLOCK_ELEMENTS = 1 << 22  # projections held at once: 16 MiB of float32
ONE_THREAD_ELEMENTS = 1 << 18  # images x slices up to which one thread is as fast as many


def with_few_threads(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Run on one thread where a view is small.

    A tile's operations take microseconds, so threads meet hundreds of times; on a machine whose cores
    are also decoding images each meeting can wait for the scheduler, and the whole takes ten times as
    long. On one thread nothing waits, and at 256 images by 1024 slices nothing is lost either.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        z_VBD, directions_DM = args[0], args[1]
        assert isinstance(z_VBD, Tensor)
        assert isinstance(directions_DM, Tensor)
        threads = torch.get_num_threads()
        small = z_VBD.shape[1] * directions_DM.shape[1] <= ONE_THREAD_ELEMENTS
        if z_VBD.device.type != "cpu" or threads == 1 or not small:
            return function(*args, **kwargs)
        torch.set_num_threads(1)
        try:
            return function(*args, **kwargs)
        finally:
            torch.set_num_threads(threads)

    return wrapped


@with_few_threads
def sums(z_VBD: Tensor, angles_DM: Tensor, knots: int) -> Tensor:
    """[V, T-1, 2, M]: sums over images of cos(k z.a) and sin(k z.a), k = 1..T-1.

    `angles_DM`: directions times the spacing of the knots.
    """
    views, slices = len(z_VBD), angles_DM.shape[1]
    # float64 across tiles: the statistic multiplies the small difference from phi by N. MPS has none.
    exact = torch.float32 if z_VBD.device.type == "mps" else torch.float64
    total = z_VBD.new_zeros(views, knots - 1, 2, slices, dtype=exact)
    scratch = Scratch(z_VBD)
    for view, columns, x_BM in projections(z_VBD, angles_DM):
        for tile, tile_columns in tiles(x_BM):
            part = x_BM.new_empty(knots - 1, 2, tile.shape[1])
            for pair, out in zip(harmonics(tile, knots, scratch), part.unbind(), strict=True):
                torch.sum(pair, dim=1, out=out)
            total[view, :, :, columns][:, :, tile_columns] += part
    return total.to(z_VBD.dtype)


@with_few_threads
def gradient(z_VBD: Tensor, directions_DM: Tensor, spacing: float, weighted_VT2M: Tensor) -> Tensor:
    """[V, B, D]: sum over slices and k of k (w_sin cos(k x) - w_cos sin(k x)) times the direction.

    x = spacing * z.direction; `weighted_VT2M`: (w_cos, w_sin) for k = 1..T-1.
    """
    knots = weighted_VT2M.shape[1] + 1
    k = torch.arange(1, knots, device=z_VBD.device, dtype=z_VBD.dtype)[:, None]
    series = torch.stack([weighted_VT2M[:, :, 1] * k, weighted_VT2M[:, :, 0] * -k], dim=2)
    result = torch.zeros_like(z_VBD, memory_format=torch.contiguous_format)
    scratch = Scratch(z_VBD)
    for view, columns, x_BM in projections(z_VBD, directions_DM * spacing):
        for tile, tile_columns in tiles(x_BM):
            coefficients = series[view, :, :, columns][:, :, None, tile_columns].unbind()
            both = scratch.get("gradient", 2, *tile.shape).zero_()
            for pair, factors in zip(harmonics(tile, knots, scratch), coefficients, strict=True):
                both.addcmul_(pair, factors)
            torch.add(both[0], both[1], out=tile)  # the tile's projections are done with
        result[view].addmm_(x_BM, directions_DM[:, columns].T)
    return result


def projections(z_VBD: Tensor, angles_DM: Tensor) -> Iterator[tuple[int, slice, Tensor]]:
    """(view, slices, z @ angles [B, slices]) for blocks of slices that bound the memory."""
    width = max(TILE_SLICES, BLOCK_ELEMENTS // z_VBD.shape[1] // TILE_SLICES * TILE_SLICES)
    for view in range(len(z_VBD)):
        for start in range(0, angles_DM.shape[1], width):
            columns = slice(start, start + width)
            yield view, columns, z_VBD[view] @ angles_DM[:, columns]


def tiles(x_BM: Tensor) -> Iterator[tuple[Tensor, slice]]:
    """Views of x and their columns, of a size that suits the device."""
    images, slices = x_BM.shape
    if x_BM.device.type == "cpu":
        width, elements = TILE_SLICES, max(TILE_ELEMENTS, torch.get_num_threads() << 14)
    else:
        width, elements = slices, ACCELERATOR_ELEMENTS
    height = max(1, elements // min(slices, width))
    for column in range(0, slices, width):
        columns = slice(column, column + width)
        for row in range(0, images, height):
            yield x_BM[row : row + height, columns], columns


class Scratch:
    """Named buffers used again from tile to tile: fresh ones cost more than the arithmetic."""

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self.buffers: dict[str, Tensor] = {}

    def get(self, name: str, *shape: int) -> Tensor:
        size = torch.Size(shape).numel()
        if name not in self.buffers or self.buffers[name].numel() < size:
            self.buffers[name] = self.like.new_empty(size)
        return self.buffers[name][:size].view(shape)


def harmonics(x: Tensor, knots: int, scratch: Scratch) -> Iterator[Tensor]:
    """(cos(k x), sin(k x)) as [2, *x.shape] for k = 1..knots-1; the tensor is overwritten each time.

    Angle addition as a second difference, f(k+1) - 2 f(k) + f(k-1) = -4 sin^2(x / 2) f(k): two operations
    where the product form takes four, and unlike the three-term rule f(k+1) = 2 cos(x) f(k) - f(k-1) it
    keeps its precision near x = 0, where most samples lie (gradient off by 4e-6 and not 1.2e-5 at 16384
    images in float32).
    """
    pair = scratch.get("pair", 2, *x.shape)
    difference = scratch.get("difference", 2, *x.shape)
    curvature = scratch.get("curvature", *x.shape)
    torch.mul(x, 0.5, out=curvature)
    half_sine, half_cosine = difference[0], difference[1]
    torch.sin(curvature, out=half_sine)
    torch.cos(curvature, out=half_cosine)
    half_cosine.mul_(half_sine).mul_(2)  # sin(x) - sin(0)
    torch.mul(half_sine, half_sine, out=curvature).mul_(4)
    torch.mul(curvature, -0.5, out=half_sine)  # cos(x) - cos(0)
    pair.copy_(difference)
    pair[0].add_(1)
    yield pair
    for _ in range(knots - 2):
        difference.addcmul_(curvature, pair, value=-1)
        pair.add_(difference)
        yield pair
