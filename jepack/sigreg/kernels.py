"""SIGReg's sums and gradient as fused GPU kernels in OpenAI Triton (the language, not the server).

V views, B images, D dimensions, M slices, T knots. Each program projects a tile in registers, walks
the knots by angle addition and reduces; the gradient projects again. Nothing of size [B, M] is
stored, and partial results are added in a fixed order, so runs repeat bit for bit.
Tiles are transposed ([slices, images]): a thread then holds many images of few slices, so that sums over
images stay within a thread and a slice's coefficients are loaded once.
"""

# Triton's kernels take pointers and constants that Python has no types for.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 1024  # enough to fill a large GPU several times over


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Sizes of one program's tile; powers of two."""

    images: int
    slices: int
    dimensions: int  # of the projection, a step at a time
    warps: int


# Best over three sizes (1024 x 1024, 8 views of 256 x 1024, 16384 x 4096) of a dozen on an H100.
SUMS_TILE = Tile(images=32, slices=64, dimensions=64, warps=4)
GRADIENT_TILE = Tile(images=32, slices=64, dimensions=128, warps=4)
# A float32 product as three tf32 products on the matrix units: sums within 2e-7 and gradients within
# 7e-7 of float64, where the plain float32 product ("ieee") has 1e-7 and 5e-7 and takes twice the time.
PRECISION = "ieee" if torch.version.hip else "tf32x3"


def sums(z_VBD: Tensor, angles_DM: Tensor, knots: int, tile: Tile = SUMS_TILE) -> Tensor:
    """[V, T-1, 2, M]: sums over images of cos(k z.a) and sin(k z.a), k = 1..T-1. Float32.

    `angles_DM`: directions times the spacing of the knots.
    """
    z, angles = z_VBD.contiguous(), angles_DM.contiguous()
    (views, images, dimensions), slices = z.shape, angles.shape[1]
    columns, rows = triton.cdiv(slices, tile.slices), triton.cdiv(images, tile.images)
    chunks = max(1, min(rows, PROGRAMS // (columns * views)))
    tiles_per_chunk = triton.cdiv(rows, chunks)
    chunks = triton.cdiv(rows, tiles_per_chunk)
    partial = z.new_empty(views, chunks, knots - 1, 2, slices)
    _sums_kernel[(columns, chunks, views)](
        z, angles, partial, images, dimensions, slices, tiles_per_chunk,
        KNOTS=knots, KNOTS_PADDED=triton.next_power_of_2(knots - 1),
        BLOCK_B=tile.images, BLOCK_M=tile.slices, BLOCK_D=_block(dimensions, tile),
        PRECISION=PRECISION, num_warps=tile.warps,
    )  # fmt: skip
    return partial[:, 0] if chunks == 1 else partial.sum(dim=1)


def gradient(
    z_VBD: Tensor,
    directions_DM: Tensor,
    spacing: float,
    weighted_VT2M: Tensor,
    tile: Tile = GRADIENT_TILE,
) -> Tensor:
    """[V, B, D]: sum over slices and k of k (w_sin cos(k x) - w_cos sin(k x)) times the direction.

    x = spacing * z.direction; `weighted_VT2M`: (w_cos, w_sin) for k = 1..T-1. Wider than
    `tile.dimensions`, each part of the dimensions walks the knots anew.
    """
    z, directions = z_VBD.contiguous(), directions_DM.contiguous()
    (views, images, dimensions), slices = z.shape, directions.shape[1]
    block = _block(dimensions, tile)
    parts, rows = triton.cdiv(dimensions, block), triton.cdiv(images, tile.images)
    columns = triton.cdiv(slices, tile.slices)
    chunks = max(1, min(columns, PROGRAMS // (rows * parts * views)))
    tiles_per_chunk = triton.cdiv(columns, chunks)
    chunks = triton.cdiv(columns, tiles_per_chunk)
    partial = z.new_empty(chunks, views, images, dimensions)
    _gradient_kernel[(rows * parts, chunks, views)](
        z, directions, weighted_VT2M.contiguous(), partial, spacing,
        images, dimensions, slices, views, parts, tiles_per_chunk,
        KNOTS=weighted_VT2M.shape[1] + 1,
        BLOCK_B=tile.images, BLOCK_M=tile.slices, BLOCK_D=block,
        PRECISION=PRECISION, num_warps=tile.warps,
    )  # fmt: skip
    return partial[0] if chunks == 1 else partial.sum(dim=0)


def _block(dimensions: int, tile: Tile) -> int:
    return min(tile.dimensions, max(16, triton.next_power_of_2(dimensions)))


@triton.jit
def _project(
    z, directions, slices_M, images_B, images, dimensions, slices,
    BLOCK_B: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """directions^T z^T: [BLOCK_M, BLOCK_B]; 0 beyond the edges."""
    x = tl.zeros((BLOCK_M, BLOCK_B), dtype=tl.float32)
    for start in range(0, dimensions, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        a = tl.load(
            directions + d[None, :] * slices + slices_M[:, None],
            mask=(d[None, :] < dimensions) & (slices_M[:, None] < slices), other=0.0,
        )  # fmt: skip
        b = tl.load(
            z + images_B[None, :] * dimensions + d[:, None],
            mask=(d[:, None] < dimensions) & (images_B[None, :] < images), other=0.0,
        )  # fmt: skip
        x = tl.dot(a, b, x, input_precision=PRECISION)
    return x


@triton.jit
def _sincos(x):
    """(cos x, sin x) to 1e-7 for |x| below a thousand turns: a fifth to a third faster in all than
    with the library's pair, which must also serve huge angles. Polynomials after Cephes."""
    quarter = tl.floor(x * 0.6366197723675814 + 0.5)
    r = x - quarter * 1.5703125  # pi / 2 in three parts; the first two products are exact
    r = r - quarter * 4.837512969970703125e-4
    r = r - quarter * 7.54978995489188216e-8
    r2 = r * r
    sin = r + r * r2 * (-1.6666654611e-1 + r2 * (8.3321608736e-3 - r2 * 1.9515295891e-4))
    cos = 4.166664568298827e-2 + r2 * (-1.388731625493765e-3 + r2 * 2.443315711809948e-5)
    cos = 1.0 - 0.5 * r2 + r2 * r2 * cos
    turn = quarter.to(tl.int32)
    odd = (turn & 1) == 1
    other_cos = tl.where(odd, sin, cos)
    other_sin = tl.where(odd, cos, sin)
    other_cos = tl.where(((turn + 1) & 2) == 2, -other_cos, other_cos)
    other_sin = tl.where((turn & 2) == 2, -other_sin, other_sin)
    return other_cos, other_sin


@triton.jit(do_not_specialize=["images", "tiles_per_chunk"])  # or each batch size compiles anew
def _sums_kernel(
    z, angles, partial, images, dimensions, slices, tiles_per_chunk,
    KNOTS: tl.constexpr, KNOTS_PADDED: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(1)
    view = tl.program_id(2).to(tl.int64)
    slices_M = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    knot = tl.arange(0, KNOTS_PADDED)
    cos_sums = tl.zeros((BLOCK_M, KNOTS_PADDED), dtype=tl.float32)
    sin_sums = tl.zeros((BLOCK_M, KNOTS_PADDED), dtype=tl.float32)
    z += view * images * dimensions
    for tile in range(chunk * tiles_per_chunk, (chunk + 1) * tiles_per_chunk):
        images_B = tile * BLOCK_B + tl.arange(0, BLOCK_B)
        x = _project(
            z, angles, slices_M, images_B, images, dimensions, slices,
            BLOCK_B, BLOCK_M, BLOCK_D, PRECISION,
        )  # fmt: skip
        cos_step, sin_step = _sincos(x)
        # Images beyond the last start at 0 + 0i and stay there.
        cos = tl.where(images_B[None, :] < images, cos_step, 0.0)
        sin = sin_step
        for k in tl.static_range(KNOTS - 1):
            cos_sums += tl.where(knot[None, :] == k, tl.sum(cos, axis=1)[:, None], 0.0)
            sin_sums += tl.where(knot[None, :] == k, tl.sum(sin, axis=1)[:, None], 0.0)
            if k < KNOTS - 2:
                next_cos = cos * cos_step - sin * sin_step
                sin = sin * cos_step + cos * sin_step
                cos = next_cos
    row = (view * tl.num_programs(1) + chunk) * (KNOTS - 1) + knot[None, :]
    place = partial + row * 2 * slices + slices_M[:, None]
    mask = (slices_M[:, None] < slices) & (knot[None, :] < KNOTS - 1)
    tl.store(place, cos_sums, mask=mask)
    tl.store(place + slices, sin_sums, mask=mask)


@triton.jit(do_not_specialize=["images", "views", "parts", "tiles_per_chunk"])
def _gradient_kernel(
    z, directions, weighted, partial, spacing,
    images, dimensions, slices, views, parts, tiles_per_chunk,
    KNOTS: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(1)
    view = tl.program_id(2).to(tl.int64)
    images_B = (tl.program_id(0) // parts) * BLOCK_B + tl.arange(0, BLOCK_B)
    d = (tl.program_id(0) % parts) * BLOCK_D + tl.arange(0, BLOCK_D)
    z += view * images * dimensions
    weighted += view * (KNOTS - 1) * 2 * slices
    result = tl.zeros((BLOCK_D, BLOCK_B), dtype=tl.float32)
    for tile in range(chunk * tiles_per_chunk, (chunk + 1) * tiles_per_chunk):
        slices_M = tile * BLOCK_M + tl.arange(0, BLOCK_M)
        inside = slices_M < slices
        x = spacing * _project(
            z, directions, slices_M, images_B, images, dimensions, slices,
            BLOCK_B, BLOCK_M, BLOCK_D, PRECISION,
        )  # fmt: skip
        cos_step, sin_step = _sincos(x)
        cos, sin = cos_step, sin_step
        slope = tl.zeros((BLOCK_M, BLOCK_B), dtype=tl.float32)
        for k in tl.static_range(KNOTS - 1):
            place = weighted + k * 2 * slices + slices_M
            w_cos = (k + 1) * tl.load(place, mask=inside, other=0.0)
            w_sin = (k + 1) * tl.load(place + slices, mask=inside, other=0.0)
            slope += w_sin[:, None] * cos - w_cos[:, None] * sin
            if k < KNOTS - 2:
                next_cos = cos * cos_step - sin * sin_step
                sin = sin * cos_step + cos * sin_step
                cos = next_cos
        a = tl.load(
            directions + d[:, None] * slices + slices_M[None, :],
            mask=(d[:, None] < dimensions) & inside[None, :], other=0.0,
        )  # fmt: skip
        result = tl.dot(a, slope, result, input_precision=PRECISION)
    place = (
        partial + ((chunk * views + view) * images + images_B[None, :]) * dimensions + d[:, None]
    )
    tl.store(place, result, mask=(d[:, None] < dimensions) & (images_B[None, :] < images))
