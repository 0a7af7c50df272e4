"""Cutting views on the device: the boxes of views.py as two batched matrix products.

V views, B images, S pixels a side, H x W pixels of the largest image, C channels. Interpolation is
linear in the pixels, so a view is rows @ image @ columns: the row matrix holds each output row's weights
on the image's rows, of a mirrored view in the other order. Half precision on GPUs keeps them to an eighth
of a grey level; float32 elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from jepack.decoding import Pixels
from training.data import Ints
from training.parallel import upload
from training.views.boxes import Boxes

PACK_BYTES = 64 << 20  # of padded pixels in one pack
WORK_ELEMENTS = 1 << 26  # of the largest temporary


@dataclass(frozen=True)
class Pack:
    """Some images of a step, padded to a common shape, and where they stand in the step."""

    pixels: Tensor  # [b, H, W, C] uint8, pinned when a GPU will take it
    shapes: Ints  # [b, 2]
    numbers: Ints  # [b] index of each image among the B

    def to(self, device: torch.device) -> Pack:
        """The same with its pixels on the device."""
        return replace(self, pixels=self.pixels.to(device, non_blocking=True))


def pack_images(images: Sequence[Pixels], *, pin: bool) -> list[Pack]:
    """Images of like shape together, so that padding wastes little."""
    shapes = np.array([image.shape[:2] for image in images], dtype=np.int64)
    order = np.lexsort((shapes[:, 1], shapes[:, 0]))
    channels = images[0].shape[2]
    packs = []
    for chosen in groups(shapes, order, channels):
        height, width = shapes[chosen].max(axis=0)
        pixels = torch.empty(
            (len(chosen), height, width, channels), dtype=torch.uint8, pin_memory=pin
        )
        target = pixels.numpy()
        for place, number in enumerate(chosen.tolist()):
            image = images[number]
            target[place, : image.shape[0], : image.shape[1]] = image
        packs.append(Pack(pixels, shapes[chosen], chosen))
    return packs


def groups(shapes: Ints, order: Ints, channels: int) -> list[Ints]:
    """`order` cut where a pack would grow too large or be mostly padding."""
    result: list[list[int]] = []
    most = np.zeros(2, dtype=np.int64)
    used = 0
    for number in order.tolist():
        shape = shapes[number]
        wider = np.maximum(most, shape)
        if result:
            padded = int(wider.prod()) * (len(result[-1]) + 1)
            wasteful = padded > 1.6 * (used + int(shape.prod())) and len(result[-1]) >= 8
            if padded * channels <= PACK_BYTES and not wasteful:
                result[-1].append(number)
                most, used = wider, used + int(shape.prod())
                continue
        result.append([number])
        most, used = shape, int(shape.prod())
    return [np.array(numbers, dtype=np.int64) for numbers in result]


def cut_on_device(
    packs: Sequence[Pack], boxes: Boxes, device: torch.device, *, exact: bool = False
) -> Tensor:
    """Views [V, B, C, S, S] in 0..1 of packed images: half precision on a GPU, which it has most time for,
    else float32; float64 throughout where `exact`."""
    views, images = boxes.box.shape[:2]
    channels, size = packs[0].pixels.shape[3], boxes.size
    kind = torch.float16 if device.type == "cuda" else torch.float32
    kind = torch.float64 if exact else kind
    result = torch.empty((views, images, channels, size, size), device=device, dtype=kind)
    for pack in packs:
        pixels = pack.to(device).pixels
        room = views * boxes.cut_size * max(pixels.shape[1], channels * pixels.shape[2])
        each = max(1, WORK_ELEMENTS // room)
        for start in range(0, len(pack.numbers), each):
            part = slice(start, start + each)
            chosen = pack.numbers[part]
            cut = cut_part(pixels[part], pack.shapes[part], boxes, chosen, kind)
            if np.array_equal(chosen, np.arange(chosen[0], chosen[0] + len(chosen))):
                result[:, chosen[0] : chosen[0] + len(chosen)] = cut
            else:
                result[:, upload(chosen, device)] = cut.to(kind)
    return result


def cut_part(
    pixels_bHWC: Tensor, shapes: Ints, boxes: Boxes, chosen: Ints, kind: torch.dtype
) -> Tensor:
    """[V, b, C, S, S] in 0..1 of some images, computed in `kind`; turned ones in float32 or wider."""
    device = pixels_bHWC.device
    number, height, width, channels = pixels_bHWC.shape
    views, side = boxes.box.shape[0], boxes.cut_size
    # [b, V * side, H], which also bring 0..255 to 0..1, and [b, V * side, W]
    rows = weights(boxes, chosen, shapes[:, 0], 0, height, device, kind, 1 / 255)
    columns = weights(boxes, chosen, shapes[:, 1], 1, width, device, kind, 1.0)
    image = pixels_bHWC.permute(0, 1, 3, 2).to(kind, memory_format=torch.contiguous_format)
    tall = torch.bmm(rows, image.view(number, height, channels * width))
    tall = tall.view(number * views, side * channels, width)
    wide = columns.view(number * views, side, width).transpose(1, 2)
    cut = torch.bmm(tall, wide).view(number, views, side, channels, side)
    cut = cut.permute(1, 0, 3, 2, 4)
    if boxes.angle is not None:
        cut = cut if kind == torch.float64 else cut.float()
        cut = rotate(cut, boxes.angle[:, chosen], boxes.size)
        cut = turn(cut, boxes.flip_rows[:, chosen], lambda x: x.flip(-2))
        cut = turn(cut, boxes.flip_columns[:, chosen], lambda x: x.flip(-1))
    return turn(cut, boxes.transpose[:, chosen], lambda x: x.transpose(-1, -2))


def weights(
    boxes: Boxes,
    chosen: Ints,
    extents: Ints,
    axis: int,
    padded: int,
    device: torch.device,
    kind: torch.dtype,
    whole: float,
) -> Tensor:
    """[b, V * side, padded], what each output row (axis 0) or column takes of each input one, `whole` in all.

    A flip is in their order, unless the square is first turned by an angle. Nearly all are zero: only a
    window of each row is computed, since a GPU's time goes by the memory that is read and written.
    """
    scale = 1 << boxes.level[:, chosen]
    start = boxes.box[:, chosen, axis] // scale
    length = boxes.box[:, chosen, 2 + axis] // scale
    extent = np.maximum(1, extents[None] // scale)
    fine = boxes.fine[:, chosen]
    flip = (boxes.flip_rows, boxes.flip_columns)[axis][:, chosen] & (boxes.angle is None)
    # The two fine samples lie at most so far apart, and each has a pixel before and after it.
    apart = 0.5 * float((fine * length).max()) / boxes.cut_size
    window = min(padded, (math.ceil(apart + 1e-3) + 2) * int(scale.max()))
    table = np.stack([start, length, extent, scale, fine, flip], axis=-1)
    values = upload(table.transpose(1, 0, 2).astype(np.float32), device)  # [b, V, 6]
    first, size, limit, step, twice, turned = (value[..., None] for value in values.unbind(-1))
    place = torch.arange(boxes.cut_size, device=device, dtype=torch.float32) + 0.5
    place = torch.where(turned > 0, boxes.cut_size - place, place)
    spread = size / boxes.cut_size
    centres = []
    for offset in (-0.25, 0.25):  # both fall on one point when not fine
        centre = (place + offset * twice) * spread - 0.5
        centre = torch.minimum(centre.clamp(min=0), size - 1) + first
        if boxes.angle is not None:
            centre = centre.abs()
            centre = torch.minimum(centre, (2 * (limit - 1) - centre).abs())
        centres.append(centre)  # [b, V, side]
    start_of = torch.minimum(*centres).floor() * step
    step, limit = step[..., None], limit[..., None]
    source = start_of.clamp(max=padded - window)[..., None] + torch.arange(window, device=device)
    position = (source / step).floor()  # [b, V, side, window]: the halved pixel it is in
    result = torch.zeros((), device=device)
    for centre in centres:
        result = result + (1 - (position - centre[..., None]).abs()).clamp(min=0)
    result = result * ((position < limit).float() / step * (whole / 2))
    matrix = torch.zeros((*place.shape, padded), device=device, dtype=kind)
    return matrix.scatter_(-1, source.long(), result.to(kind)).flatten(1, 2)


def rotate(cut_VBCSS: Tensor, degrees: npt.NDArray[np.float32], size: int) -> Tensor:
    """The middle size x size of larger squares, each turned counter-clockwise by its own angle."""
    views, number, channels, side, _ = cut_VBCSS.shape
    angle = upload(degrees.astype(np.float32), cut_VBCSS.device, cut_VBCSS.dtype) * (math.pi / 180)
    cos, sin = angle.cos().flatten(), angle.sin().flatten()
    share = size / side
    nothing = torch.zeros_like(cos)
    rows = [torch.stack([cos, -sin, nothing], -1), torch.stack([sin, cos, nothing], -1)]
    matrix = torch.stack(rows, dim=1) * share
    shape = [views * number, channels, size, size]
    grid = F.affine_grid(matrix, shape, align_corners=False)
    turned = F.grid_sample(cut_VBCSS.flatten(0, 1), grid, align_corners=False)
    return turned.view(views, number, channels, size, size)


def turn(cut_VBCSS: Tensor, some: npt.NDArray[np.bool_], how: Callable[[Tensor], Tensor]) -> Tensor:
    """Views with some [V, B] of them turned."""
    if not some.any():
        return cut_VBCSS
    return torch.where(
        upload(some, cut_VBCSS.device)[..., None, None, None], how(cut_VBCSS), cut_VBCSS
    )
