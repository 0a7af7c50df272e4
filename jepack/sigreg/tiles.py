"""SIGReg's sums and gradient in plain PyTorch, tile by tile, in cache.

V views, B images, D dimensions, M slices, T knots; a tile is n images by m slices.
A tile's cosines and sines are one tensor [2, n, m]; each further knot costs two in-place operations on
it. Nothing of size [B, M] exists.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from jepack.sigreg.sharing import Job, share

# 1.5 to 2 MiB of scratch. 2^17 takes 1.6 times as long on a Xeon with 2 MiB of cache a core; 2^15 is 10 %
# faster there, but the shorter an operation the longer threads wait for Python's lock.
TILE_ELEMENTS = 1 << 16
TILE_LENGTH = (
    1024  # at most, along what is added up: the other side is short, and there are many jobs
)
ACCELERATOR_ELEMENTS = 1 << 22  # elsewhere launches cost more than lost caches
ACCELERATOR_LENGTH = 1 << 14


def sums(z_VBD: Tensor, angles_DM: Tensor, knots: int) -> Tensor:
    """[V, T-1, 2, M]: sums over images of cos(k z.a) and sin(k z.a), k = 1..T-1.

    `angles_DM`: directions times the spacing of the knots.
    """
    views, images, slices = len(z_VBD), z_VBD.shape[1], angles_DM.shape[1]
    rows, columns = tile(z_VBD, images, slices)
    # float64 across tiles: the statistic multiplies the small difference from phi by N. MPS has none.
    exact = torch.float32 if z_VBD.device.type == "mps" else torch.float64
    total = z_VBD.new_zeros(views, knots - 1, 2, slices, dtype=exact)

    def add(jobs: Iterator[Job]) -> None:
        """All images of some slices, at each job."""
        scratch = Scratch(z_VBD)
        for view, some in jobs:
            for chosen in ranges(images, rows):
                x = project(z_VBD[view, chosen], angles_DM[:, some], scratch)
                part = x.new_empty(knots - 1, 2, x.shape[1])
                for pair, out in zip(harmonics(x, knots, scratch), part.unbind(), strict=True):
                    torch.sum(pair, dim=1, out=out)
                total[view, :, :, some] += part

    jobs = [(view, some) for view in range(views) for some in ranges(slices, columns)]
    share(add, "sums", jobs, (views, images, slices))
    return total.to(z_VBD.dtype)


def gradient(z_VBD: Tensor, directions_DM: Tensor, spacing: float, weighted_VT2M: Tensor) -> Tensor:
    """[V, B, D]: sum over slices and k of k (w_sin cos(k x) - w_cos sin(k x)) times the direction.

    x = spacing * z.direction; `weighted_VT2M`: (w_cos, w_sin) for k = 1..T-1.
    """
    views, images, slices = len(z_VBD), z_VBD.shape[1], directions_DM.shape[1]
    columns, rows = tile(z_VBD, slices, images)
    knots = weighted_VT2M.shape[1] + 1
    k = torch.arange(1, knots, device=z_VBD.device, dtype=z_VBD.dtype)[:, None]
    series = torch.stack([weighted_VT2M[:, :, 1] * k, weighted_VT2M[:, :, 0] * -k], dim=2)
    result = torch.zeros_like(z_VBD, memory_format=torch.contiguous_format)
    angles_DM = directions_DM * spacing

    def add(jobs: Iterator[Job]) -> None:
        """All slices of some images, at each job."""
        scratch = Scratch(z_VBD)
        for view, some in jobs:
            for chosen in ranges(slices, columns):
                x = project(z_VBD[view, some], angles_DM[:, chosen], scratch)
                coefficients = series[view, :, :, None, chosen].unbind()
                both = scratch.get("gradient", 2, *x.shape).zero_()
                for pair, factors in zip(harmonics(x, knots, scratch), coefficients, strict=True):
                    both.addcmul_(pair, factors)
                torch.add(both[0], both[1], out=x)  # the tile's projections are done with
                result[view, some].addmm_(x, directions_DM[:, chosen].T)

    jobs = [(view, some) for view in range(views) for some in ranges(images, rows)]
    share(add, "gradient", jobs, (views, images, slices))
    return result


def tile(z_VBD: Tensor, added: int, kept: int) -> tuple[int, int]:
    """A tile's sides that suit the device: along what is added up, and along what is kept.

    The same whatever the number of threads. On a CPU it is long along the first, as each strip of the
    second is a job: more of them than threads, so that one that is held up leaves its jobs to the others.
    """
    on_cpu = z_VBD.device.type == "cpu"
    long = min(added, TILE_LENGTH if on_cpu else ACCELERATOR_LENGTH)
    return long, min(kept, (TILE_ELEMENTS if on_cpu else ACCELERATOR_ELEMENTS) // long)


def ranges(count: int, length: int) -> list[slice]:
    return [slice(start, min(start + length, count)) for start in range(0, count, length)]


def project(z_BD: Tensor, angles_DM: Tensor, scratch: Scratch) -> Tensor:
    """[B, M], in a buffer that the next tile overwrites."""
    out = scratch.get("projections", len(z_BD), angles_DM.shape[1])
    return torch.mm(z_BD, angles_DM, out=out)


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
