"""SIGReg's sums and gradient in plain PyTorch, tile by tile, in cache.

V views, B images, D dimensions, M slices, T knots; a tile is n images by m slices.
A tile's cosines and sines are one tensor [2, n, m]; each further knot costs two in-place operations on
it. Nothing of size [B, M] exists.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

TILE_SLICES = 256
TILE_ELEMENTS = 1 << 17  # 3.5 MiB of scratch; best of 2^15..2^20 on two kinds of processor
ACCELERATOR_ELEMENTS = 1 << 22  # elsewhere launches cost more than lost caches
ONE_THREAD_ELEMENTS = 1 << 18  # views x images x slices up to which one thread is as fast as many

Work = Callable[[int, slice, "Scratch"], None]


def sums(z_VBD: Tensor, angles_DM: Tensor, knots: int) -> Tensor:
    """[V, T-1, 2, M]: sums over images of cos(k z.a) and sin(k z.a), k = 1..T-1.

    `angles_DM`: directions times the spacing of the knots.
    """
    views, images, slices = len(z_VBD), z_VBD.shape[1], angles_DM.shape[1]
    # float64 across tiles: the statistic multiplies the small difference from phi by N. MPS has none.
    exact = torch.float32 if z_VBD.device.type == "mps" else torch.float64
    total = z_VBD.new_zeros(views, knots - 1, 2, slices, dtype=exact)
    rows, columns = tiles(z_VBD, slices)

    def add(view: int, some: slice, scratch: Scratch) -> None:
        """All images of some slices."""
        for chosen in ranges(images, rows):
            x = project(z_VBD[view, chosen], angles_DM[:, some], scratch)
            part = x.new_empty(knots - 1, 2, x.shape[1])
            for pair, out in zip(harmonics(x, knots, scratch), part.unbind(), strict=True):
                torch.sum(pair, dim=1, out=out)
            total[view, :, :, some] += part

    share(add, views, ranges(slices, columns), z_VBD, slices)
    return total.to(z_VBD.dtype)


def gradient(z_VBD: Tensor, directions_DM: Tensor, spacing: float, weighted_VT2M: Tensor) -> Tensor:
    """[V, B, D]: sum over slices and k of k (w_sin cos(k x) - w_cos sin(k x)) times the direction.

    x = spacing * z.direction; `weighted_VT2M`: (w_cos, w_sin) for k = 1..T-1.
    """
    images, slices, knots = z_VBD.shape[1], directions_DM.shape[1], weighted_VT2M.shape[1] + 1
    k = torch.arange(1, knots, device=z_VBD.device, dtype=z_VBD.dtype)[:, None]
    series = torch.stack([weighted_VT2M[:, :, 1] * k, weighted_VT2M[:, :, 0] * -k], dim=2)
    result = torch.zeros_like(z_VBD, memory_format=torch.contiguous_format)
    angles_DM = directions_DM * spacing
    rows, columns = tiles(z_VBD, slices)

    def add(view: int, some: slice, scratch: Scratch) -> None:
        """All slices of some images."""
        for chosen in ranges(slices, columns):
            x = project(z_VBD[view, some], angles_DM[:, chosen], scratch)
            coefficients = series[view, :, :, None, chosen].unbind()
            both = scratch.get("gradient", 2, *x.shape).zero_()
            for pair, factors in zip(harmonics(x, knots, scratch), coefficients, strict=True):
                both.addcmul_(pair, factors)
            torch.add(both[0], both[1], out=x)  # the tile's projections are done with
            result[view, some].addmm_(x, directions_DM[:, chosen].T)

    share(add, views=len(z_VBD), spans=ranges(images, rows), z_VBD=z_VBD, slices=slices)
    return result


def tiles(z_VBD: Tensor, slices: int) -> tuple[int, int]:
    """Images and slices of a tile that suits the device; the same whatever the number of threads."""
    on_cpu = z_VBD.device.type == "cpu"
    columns = min(slices, TILE_SLICES) if on_cpu else slices
    return max(1, (TILE_ELEMENTS if on_cpu else ACCELERATOR_ELEMENTS) // columns), columns


def ranges(count: int, length: int) -> list[slice]:
    return [slice(start, min(start + length, count)) for start in range(0, count, length)]


def project(z_BD: Tensor, angles_DM: Tensor, scratch: Scratch) -> Tensor:
    """[B, M], in a buffer that the next tile overwrites."""
    out = scratch.get("projections", len(z_BD), angles_DM.shape[1])
    return torch.mm(z_BD, angles_DM, out=out)


def share(work: Work, views: int, spans: list[slice], z_VBD: Tensor, slices: int) -> None:
    """Call `work` for every view and span, on a CPU by as many threads as torch has.

    Each thread takes a tile after the other and computes it alone. torch's own threads share every
    operation instead, which here takes microseconds: they meet hundreds of times, and on a machine
    whose cores are wanted by others each meeting can wait for the scheduler (11.6 s instead of 0.06).
    No two calls write to the same place: these sums have the same bits with any number of threads.
    """
    jobs = deque((view, span) for view in range(views) for span in spans)
    inference = torch.is_inference_mode_enabled()

    def run() -> None:
        scratch = Scratch(z_VBD)
        with torch.inference_mode(inference), torch.no_grad():
            while jobs:
                try:
                    job = jobs.popleft()
                except IndexError:  # another thread took the last one
                    return
                work(*job, scratch)

    threads = torch.get_num_threads()
    if z_VBD.device.type != "cpu" or threads == 1:
        return run()
    small = z_VBD.shape[0] * z_VBD.shape[1] * slices <= ONE_THREAD_ELEMENTS
    helpers = 0 if small else min(threads, len(jobs)) - 1
    torch.set_num_threads(1)  # of this thread, and of threads that start now
    try:
        if helpers == 0:
            return run()
        with ThreadPoolExecutor(helpers, thread_name_prefix="sigreg") as pool:
            others = [pool.submit(run) for _ in range(helpers)]
            run()
        for other in others:
            other.result()
    finally:
        torch.set_num_threads(threads)


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
