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

This is not `jepack.decoding.crop` written twice. That one is how an image is judged and served: one centred
crop, whose resampling timm's evaluation and the bundle's golden images fix to the pixel. Views are many an
image and step, and only their speed and their look count.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

import cv2
import numpy as np

from jepack.decoding import Pixels
from training.data import Ints
from training.settings import PRESETS, Preset, preset
from training.views.boxes import Boxes, Draw, crop_boxes, draw
from training.views.cpu_light import MOST_CHANNELS, retouch
from training.views.light import photometry

__all__ = [
    "PRESETS", "Boxes", "Draw", "Preset", "crop_boxes", "cut_views", "draw", "photometry", "preset",
]  # fmt: skip


cv2.setNumThreads(1)  # parallel over images, not inside one
CHUNK = 16  # images a thread cuts in one go


def cut_views(
    images: Sequence[Pixels],
    boxes: Boxes,
    pool: Executor | None = None,
    *,
    numbers: Draw | None = None,
    preset: Preset | None = None,
) -> Pixels:
    """Images [H, W, C] of any size -> views [V, B, S, S, C] uint8.

    With `numbers` and `preset` their light and colour are changed too, except for noise.
    """
    views, size = boxes.box.shape[0], boxes.size
    result = np.empty((views, len(images), size, size, images[0].shape[2]), dtype=np.uint8)
    plan = Plan(boxes)
    starts = range(0, len(images), CHUNK)

    def some(start: int) -> None:
        for number in range(start, min(start + CHUNK, len(images))):
            cut_image(images[number], plan, number, result[:, number])
            if numbers is not None and preset is not None:
                for view in range(views):
                    light, extra = numbers.light[view, number], numbers.extra[view, number]
                    result[view, number] = retouch(result[view, number], light, extra, preset)

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
