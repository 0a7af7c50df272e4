"""Views: every image cut and turned with its own random numbers.

V views, G images of the whole step (all ranks), B images here, S pixels a side, C channels.
All random numbers of a step are drawn at once from (seed, step), for all ranks, so neither resuming
nor the number of ranks changes what an image looks like. This file cuts on the CPU, with OpenCV and
uint8; device.py cuts the same boxes on a GPU. Light and colour follow: cpu_light.py on the CPU,
light.py on a GPU.

How a box becomes S x S pixels, in both: halve the image until the box is at most twice as large as the
view (2 x 2 means); then interpolate linearly, and when the box is still more than 1.5 times as large,
at twice the resolution followed by 2 x 2 means. Against area averaging nothing visible is lost, and it
takes a quarter of the time (benchmarks/views.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from jepack.decoding import Pixels
from training.content import Grids, centres, shares
from training.photometry import EXTRA_NUMBERS, LIGHT_NUMBERS, photometry
from training.retouch import MOST_CHANNELS, retouch
from training.settings import PRESETS, Preset, preset

__all__ = [
    "PRESETS", "Boxes", "Draw", "Preset", "crop_boxes", "cut_views", "draw", "photometry", "preset",
]  # fmt: skip

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

cv2.setNumThreads(1)  # parallel over images, not inside one
MARGIN = math.sqrt(2)  # a square turned by any angle fits into one this much larger
CHUNK = 16  # images a thread cuts in one go
TRIES = 4  # more crops drawn where the first shows too little


@dataclass(frozen=True)
class Draw:
    """The random numbers of some views of some images; every array starts [V, G or B]."""

    box: Floats  # [.., 4] area share, log aspect, vertical and horizontal place, in the unit cube
    turn: Ints  # [.., 3] horizontal flip, vertical flip, quarter turns
    light: Floats  # [.., 9] uniform numbers for photometry
    extra: Floats  # [.., 9] more of them: the angle, then see `photometry`
    again: Floats | None = None  # [.., T, 4] as `box`, for crops that show too little

    def images(self, chosen: slice) -> Draw:
        return self._part((slice(None), chosen))

    def views(self, chosen: slice) -> Draw:
        return self._part((chosen,))

    def _part(self, place: tuple[slice, ...]) -> Draw:
        again = None if self.again is None else self.again[place]
        return Draw(self.box[place], self.turn[place], self.light[place], self.extra[place], again)


def draw(views: int, images: int, *, seed: int, step: int, look: Preset | None = None) -> Draw:
    """All random numbers of a step: a pure function of (seed, step), and of whether `look` redraws."""
    generator = np.random.default_rng([seed, 2, step])
    again = None
    if look is not None and look.min_content > 0:
        more = np.random.default_rng([seed, 6, step])
        again = more.random((views, images, TRIES, 4), dtype=np.float32)
    return Draw(
        box=generator.random((views, images, 4), dtype=np.float32),
        turn=generator.integers(0, 4, (views, images, 3)),
        light=generator.random((views, images, LIGHT_NUMBERS), dtype=np.float32),
        extra=generator.random((views, images, EXTRA_NUMBERS), dtype=np.float32),
        again=again,
    )


@dataclass(frozen=True)
class Boxes:
    """Where and how each view is cut; every array is [V, B] or [V, B, ..]. Both engines follow it."""

    box: Ints  # [V, B, 4] top, left, height, width, px; may leave the image when it is turned
    level: Ints  # halvings before interpolation; the box is a multiple of 2 ** level
    fine: npt.NDArray[np.bool_]  # interpolate at twice the resolution, then 2 x 2 means
    flip_rows: npt.NDArray[np.bool_]  # before transposing
    flip_columns: npt.NDArray[np.bool_]
    transpose: npt.NDArray[np.bool_]
    angle: Floats | None  # degrees, [V, B]; None when nothing turns by an angle
    size: int  # px, of the finished view
    cut_size: int  # px, of the square that is cut; larger than `size` when it is turned afterwards


def crop_boxes(
    shapes: Ints,
    numbers: Draw,
    size: int,
    scale: tuple[float, float],
    look: Preset,
    regions: Ints | None = None,
    masks: Grids | None = None,
    contents: Grids | None = None,
) -> Boxes:
    """Boxes of all views at once. `shapes` [B, 2] are heights and widths, px.

    `regions` [B, 4] (top, left, height, width, px) keep every crop's centre inside, `masks` [B, G, G]
    draw it where they count. Of a view whose `contents` (else `masks`) fill less than look.min_content,
    the first of `numbers.again` that shows enough is taken, else the fullest.
    """
    limits = np.asarray(shapes, np.float64)[None]
    starts, lengths = placed(numbers.box, limits, scale, look, regions, masks)
    grids = masks if contents is None else contents
    if numbers.again is not None and grids is not None:
        found = [(starts, lengths)]
        for number in range(numbers.again.shape[2]):
            found.append(placed(numbers.again[:, :, number], limits, scale, look, regions, masks))
        every_start, every_length = (np.stack(part) for part in zip(*found, strict=True))
        share = shares(grids, every_start, every_length, limits[0])
        enough = share >= look.min_content
        taken = np.where(enough.any(axis=0), enough.argmax(axis=0), share.argmax(axis=0))
        starts, lengths = (
            np.take_along_axis(part, taken[None, ..., None], axis=0)[0]
            for part in (every_start, every_length)
        )
    cut_size = size
    angle = None
    if look.rotation > 0:
        angle = (2 * numbers.extra[..., 0] - 1) * look.rotation
        cut_size = math.ceil(size * MARGIN)
    if angle is not None:
        larger = np.round(lengths * (cut_size / size))
        starts, lengths = starts - np.round((larger - lengths) / 2), larger
    shrink = np.sqrt(lengths.prod(axis=-1)) / cut_size
    most = np.log2(np.maximum(1.0, lengths.min(axis=-1)))  # a thin box is not halved away
    level = np.clip(np.ceil(np.log2(np.maximum(shrink, 1e-9) / 2)), 0, most // 1).astype(np.int64)
    step = (1 << level)[..., None]
    starts = np.floor(starts / step) * step
    lengths = np.maximum(step, np.floor(lengths / step) * step)
    return Boxes(
        box=np.concatenate([starts, lengths], axis=-1).astype(np.int64),
        level=level,
        fine=shrink / (1 << level) > 1.5,
        **turns(numbers.turn, look),
        angle=angle,
        size=size,
        cut_size=cut_size,
    )


def placed(
    box: Floats,
    limits: Any,
    scale: tuple[float, float],
    look: Preset,
    regions: Ints | None,
    masks: Grids | None,
) -> tuple[Any, Any]:
    """Where crops start and how large they are, [V, B, 2] px each, from their random numbers [V, B, 4]."""
    unit = box.astype(np.float64)
    area = limits.prod(axis=-1) * (scale[0] + unit[..., 0] * (scale[1] - scale[0]))
    low, high = math.log(look.aspect[0]), math.log(look.aspect[1])
    ratio = np.exp(low + unit[..., 1] * (high - low))
    lengths = np.stack([np.sqrt(area / ratio), np.sqrt(area * ratio)], axis=-1)
    lengths = np.clip(np.round(lengths), 1, limits)
    place = unit[..., 2:4]
    if masks is not None:
        starts = np.round(centres(masks, place) * limits - lengths / 2)
    elif regions is not None:
        centre = regions[None, :, :2] + place * regions[None, :, 2:]
        starts = np.round(centre - lengths / 2)
    else:
        starts = np.floor(place * (limits - lengths + 1))
    return np.clip(starts, 0, limits - lengths), lengths


def turns(numbers: Ints, look: Preset) -> dict[str, npt.NDArray[np.bool_]]:
    """Flips, then quarter turns counter-clockwise, as flips followed by a transposition."""
    nothing = np.zeros(numbers.shape[:2], dtype=bool)
    columns = numbers[..., 0] % 2 == 1 if look.flip_horizontal else nothing
    rows = numbers[..., 1] % 2 == 1 if look.flip_vertical else nothing
    quarter = numbers[..., 2] if look.quarter_turns else np.zeros_like(numbers[..., 2])
    return {
        "flip_rows": rows ^ (quarter >= 2),
        "flip_columns": columns ^ ((quarter == 1) | (quarter == 2)),
        "transpose": quarter % 2 == 1,
    }


def cut_views(
    images: Sequence[Pixels],
    boxes: Boxes,
    pool: Executor | None = None,
    *,
    numbers: Draw | None = None,
    look: Preset | None = None,
) -> Pixels:
    """Images [H, W, C] of any size -> views [V, B, S, S, C] uint8.

    With `numbers` and `look` their light and colour are changed too, except for noise.
    """
    views, size = boxes.box.shape[0], boxes.size
    result = np.empty((views, len(images), size, size, images[0].shape[2]), dtype=np.uint8)
    plan = Plan(boxes)
    starts = range(0, len(images), CHUNK)

    def some(start: int) -> None:
        for number in range(start, min(start + CHUNK, len(images))):
            cut_image(images[number], plan, number, result[:, number])
            if numbers is not None and look is not None:
                for view in range(views):
                    light, extra = numbers.light[view, number], numbers.extra[view, number]
                    result[view, number] = retouch(result[view, number], light, extra, look)

    if pool is None or len(starts) == 1:
        for start in starts:
            some(start)
    else:
        list(pool.map(some, starts))
    return result


class Plan:
    """Boxes as plain Python numbers: indexing arrays one view at a time costs more than the cutting."""

    def __init__(self, boxes: Boxes) -> None:
        self.box, self.level, self.fine = (
            boxes.box.tolist(), boxes.level.tolist(), boxes.fine.tolist(),
        )  # fmt: skip
        # OpenCV's flip code: 0 = rows, 1 = columns, -1 = both; None = neither
        codes = np.array([None, 1, 0, -1], dtype=object)
        self.flip = codes[2 * boxes.flip_rows + boxes.flip_columns].tolist()
        self.transpose = boxes.transpose.tolist()
        self.angle = None if boxes.angle is None else boxes.angle.tolist()
        self.size, self.cut_size = boxes.size, boxes.cut_size


def cut_image(image_HWC: Pixels, plan: Plan, number: int, out_VSSC: Pixels) -> None:
    """Every view of one image, written into place."""
    channels = image_HWC.shape[2]
    if channels > MOST_CHANNELS:
        for first in range(0, channels, MOST_CHANNELS):
            some = slice(first, first + MOST_CHANNELS)
            group = np.ascontiguousarray(out_VSSC[..., some])
            cut_image(np.ascontiguousarray(image_HWC[..., some]), plan, number, group)
            out_VSSC[..., some] = group
        return
    levels = {0: image_HWC}
    side = plan.cut_size
    for view in range(len(out_VSSC)):
        top, left, box_height, box_width = plan.box[view][number]
        level = plan.level[view][number]
        source = levels.get(level)
        if source is None:
            source = levels[level] = halved(image_HWC, level)
        rows = slice(top >> level, (top + box_height) >> level)
        columns = slice(left >> level, (left + box_width) >> level)
        outside = plan.angle is not None and (
            top < 0 or left < 0 or rows.stop > source.shape[0] or columns.stop > source.shape[1]
        )
        piece: Any = framed(source, rows, columns) if outside else source[rows, columns]
        flip, transpose = plan.flip[view][number], plan.transpose[view][number]
        plain = flip is None and not transpose and plan.angle is None
        target = out_VSSC[view] if plain else None
        if plan.fine[view][number]:
            piece = cv2.resize(piece, (2 * side, 2 * side), interpolation=cv2.INTER_LINEAR)
            piece = cv2.resize(piece, (side, side), dst=target, interpolation=cv2.INTER_AREA)
        else:
            piece = cv2.resize(piece, (side, side), dst=target, interpolation=cv2.INTER_LINEAR)
        if plan.angle is not None:
            piece = rotated(piece, plan.angle[view][number], plan.size)
        if flip is not None:
            piece = cv2.flip(piece, flip)
        if transpose:
            piece = np.swapaxes(piece, 0, 1)
        if not plain:
            out_VSSC[view] = piece.reshape(plan.size, plan.size, channels)


def halved(image_HWC: Pixels, level: int) -> Pixels:
    """2 x 2 means, `level` times; an odd last row or column is left out."""
    height, width = image_HWC.shape[0] >> level, image_HWC.shape[1] >> level
    whole = image_HWC[: height << level, : width << level]
    result = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(result, dtype=np.uint8).reshape(height, width, -1)


def framed(source: Pixels, rows: slice, columns: slice) -> Pixels:
    """A box that leaves the image, mirrored at the borders."""
    height, width = source.shape[:2]
    index_y = mirrored(np.arange(rows.start, rows.stop), height)
    index_x = mirrored(np.arange(columns.start, columns.stop), width)
    return source[index_y[:, None], index_x[None]]


def mirrored(index: Ints, extent: int) -> Ints:
    """Indices outside 0..extent-1 thrown back at the border, which is not repeated."""
    period = max(1, 2 * (extent - 1))
    index = np.abs(index) % period
    return np.minimum(index, period - index) if extent > 1 else np.zeros_like(index)


def rotated(square: Pixels, degrees: float, size: int) -> Pixels:
    """The middle size x size of a larger square, turned counter-clockwise."""
    side = square.shape[0]
    centre = (side - 1) / 2
    matrix = cv2.getRotationMatrix2D((centre, centre), degrees, 1.0)
    matrix[:, 2] -= (side - size) / 2
    turned = cv2.warpAffine(square, matrix, (size, size), flags=cv2.INTER_LINEAR)
    return np.asarray(turned, dtype=np.uint8)
