"""Where views are cut: random numbers of a step -> box, turn and mirror of every view."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.data import Grids, Ints, centres, shares
from training.settings import Preset
from training.views.light import EXTRA_NUMBERS, LIGHT_NUMBERS

Floats = npt.NDArray[np.float32]
MARGIN = math.sqrt(2)  # a square turned by any angle fits into one this much larger
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


def draw(views: int, images: int, *, seed: int, step: int, preset: Preset | None = None) -> Draw:
    """All random numbers of a step: a pure function of (seed, step), and of whether `preset` redraws."""
    generator = np.random.default_rng([seed, 2, step])
    again = None
    if preset is not None and preset.min_content > 0:
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
    preset: Preset,
    regions: Ints | None = None,
    masks: Grids | None = None,
    contents: Grids | None = None,
    *,
    inside: Ints | None = None,
    squash: bool = False,
) -> Boxes:
    """Boxes of all views at once. `shapes` [B, 2] are heights and widths, px.

    `regions` [B, 4] (top, left, height, width, px) keep every crop's centre inside, `masks` [B, G, G]
    draw it where they count. Of a view whose `contents` (else `masks`) fill less than preset.min_content,
    the first of `numbers.again` that shows enough is taken, else the fullest. `inside` [B, 4] is the image
    within its pixels, beyond which no box reaches further than its length asks. `squash`: boxes have the
    image's shape, as a part of the image squashed to a square has.
    """
    limits = np.asarray(shapes, np.float64)[None]

    def places(box: Floats) -> tuple[Any, Any]:
        return placed(box, limits, scale, preset, regions, masks, inside, squash=squash)

    starts, lengths = places(numbers.box)
    grids = masks if contents is None else contents
    if numbers.again is not None and grids is not None:
        tries = [(starts, lengths)]
        for number in range(numbers.again.shape[2]):
            tries.append(places(numbers.again[:, :, number]))
        every_start, every_length = (np.stack(part) for part in zip(*tries, strict=True))
        share = shares(grids, every_start, every_length, limits[0])
        enough = share >= preset.min_content
        taken = np.where(enough.any(axis=0), enough.argmax(axis=0), share.argmax(axis=0))
        starts, lengths = (
            np.take_along_axis(part, taken[None, ..., None], axis=0)[0]
            for part in (every_start, every_length)
        )
    cut_size = size
    angle = None
    if preset.rotation > 0:
        angle = (2 * numbers.extra[..., 0] - 1) * preset.rotation
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
        **turns(numbers.turn, preset),
        angle=angle,
        size=size,
        cut_size=cut_size,
    )


def placed(
    box: Floats,
    limits: Any,
    scale: tuple[float, float],
    preset: Preset,
    regions: Ints | None,
    masks: Grids | None,
    inside: Ints | None,
    *,
    squash: bool,
) -> tuple[Any, Any]:
    """Where crops start and how large they are, [V, B, 2] px each, from their random numbers [V, B, 4]."""
    unit = box.astype(np.float64)
    area = limits.prod(axis=-1) * (scale[0] + unit[..., 0] * (scale[1] - scale[0]))
    low, high = math.log(preset.aspect[0]), math.log(preset.aspect[1])
    ratio = np.exp(low + unit[..., 1] * (high - low))
    if squash:
        ratio = ratio * limits[..., 1] / limits[..., 0]
    lengths = np.stack([np.sqrt(area / ratio), np.sqrt(area * ratio)], axis=-1)
    lengths = np.clip(np.round(lengths), 1, limits)
    place = unit[..., 2:4]
    if masks is not None:
        starts = np.round(centres(masks, place) * limits - lengths / 2)
    elif regions is not None:
        centre = regions[None, :, :2] + place * regions[None, :, 2:]
        starts = np.round(centre - lengths / 2)
    elif inside is not None:
        first, last = inside[None, :, :2], inside[None, :, :2] + inside[None, :, 2:] - lengths
        low = np.maximum(0, np.minimum(first, last))
        high = np.minimum(limits - lengths, np.maximum(first, last))
        starts = low + np.floor(place * (high - low + 1))
    else:
        starts = np.floor(place * (limits - lengths + 1))
    return np.clip(starts, 0, limits - lengths), lengths


def turns(numbers: Ints, preset: Preset) -> dict[str, npt.NDArray[np.bool_]]:
    """Flips, then quarter turns counter-clockwise, as flips followed by a transposition."""
    nothing = np.zeros(numbers.shape[:2], dtype=bool)
    columns = numbers[..., 0] % 2 == 1 if preset.flip_horizontal else nothing
    rows = numbers[..., 1] % 2 == 1 if preset.flip_vertical else nothing
    quarter = numbers[..., 2] if preset.quarter_turns else np.zeros_like(numbers[..., 2])
    return {
        "flip_rows": rows ^ (quarter >= 2),
        "flip_columns": columns ^ ((quarter == 1) | (quarter == 2)),
        "transpose": quarter % 2 == 1,
    }
