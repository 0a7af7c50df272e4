"""Where in an image something is: a coarse grid, from its mask or from what is not background.

B images, V views, T tries, G cells a side. A grid is [G, G] uint8, the share of each cell that counts,
255 = all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from jepack.decoding import Pixels, preprocess
from jepack.errors import DataError
from jepack.sources import ImageFile, own_bytes, place_of_window
from training.settings import Preset

Grids = npt.NDArray[np.uint8]
GRID = 32  # cells a side: the smallest local crop, 5 % of an image, is 7 cells wide
SAMPLES = 64  # pixels a side that are looked at to find background
DARK, BRIGHT, FLAT = 4, 220, 3.0  # levels of 255: at most, at least, standard deviation in a cell
WHOLE = np.full((GRID, GRID), 255, np.uint8)


def mask_of(file: ImageFile, shape: tuple[int, ...]) -> Grids:
    """The grid of a file's mask, whose values other than 0 count. Raises DataError.

    A mask that marks nothing says nothing: the whole image counts. A window of a map has its own place in the
    map's mask.
    """
    assert file.mask is not None
    try:
        values = preprocess.read_raw(own_bytes(file.mask)).values
    except DataError as error:
        raise DataError(f"its mask cannot be used: {error}") from error
    if (file.part or "").startswith("window="):
        place = place_of_window(file.path, str(file.part))
        rows, columns = values.shape[:2]
        top, left, bottom, right = (
            round(share * side) for share, side in zip(place, (rows, columns) * 2, strict=True)
        )
        values = values[top : max(bottom, top + 1), left : max(right, left + 1)]
    height, width = values.shape[:2]
    if abs(height * shape[1] / (width * shape[0]) - 1) > 0.02:
        raise DataError(
            f"its mask {file.mask} is {width} x {height} px, the image {shape[1]} x {shape[0]}: "
            "they need the same shape"
        )
    marked = (values != 0).any(axis=2).astype(np.float32)
    grid = cv2.resize(marked, (GRID, GRID), interpolation=cv2.INTER_AREA)
    return np.ceil(grid * 255).astype(np.uint8) if marked.any() else WHOLE


def content_of(image_HWC: Pixels, background: str) -> Grids:
    """The grid of what is not background, from a sample of the pixels; see Preset.background."""
    step_y, step_x = (max(1, extent // SAMPLES) for extent in image_HWC.shape[:2])
    few = image_HWC[::step_y, ::step_x]
    size: Any = {"dsize": (GRID, GRID), "interpolation": cv2.INTER_AREA}
    if background == "flat":
        grey = few.mean(axis=2, dtype=np.float32)
        mean = cv2.resize(grey, **size)
        variance = cv2.resize(grey * grey, **size) - mean * mean
        return ((variance > FLAT * FLAT) * 255).astype(np.uint8)
    # Channel by channel: NumPy's maximum over a short last axis takes four times as long.
    channels = [few[..., channel] for channel in range(few.shape[2])]
    if background == "dark":
        holds = reduce(np.maximum, channels) > DARK
    else:
        holds = reduce(np.minimum, channels) < BRIGHT
    return np.asarray(cv2.resize(holds.astype(np.uint8) * 255, **size), dtype=np.uint8)


def contents_for(images: Sequence[Pixels], masks: Grids | None, preset: Preset) -> Grids | None:
    """[B, G, G] that crops are judged by: the masks, else what is not background; None when not asked."""
    if preset.min_content <= 0:
        return None
    if masks is not None:
        return masks
    return np.stack([content_of(image, preset.background) for image in images])


def shares(grids_BGG: Grids, starts: Any, lengths: Any, shapes_B2: Any) -> Any:
    """How much of each box counts, 0..1. `starts` and `lengths` [.., B, 2] px; `shapes_B2` px."""
    integral = np.zeros((len(grids_BGG), GRID + 1, GRID + 1))
    integral[:, 1:, 1:] = grids_BGG.cumsum(axis=1, dtype=np.float64).cumsum(axis=2) / 255
    first = starts / shapes_B2 * GRID
    last = (starts + lengths) / shapes_B2 * GRID

    def below(y: Any, x: Any) -> Any:
        """The integral up to (y, x), linear inside a cell: exact for even cells."""
        y, x = np.clip(y, 0, GRID), np.clip(x, 0, GRID)
        row, column = np.minimum(y.astype(int), GRID - 1), np.minimum(x.astype(int), GRID - 1)
        image = np.broadcast_to(np.arange(len(integral)), row.shape)
        part_y, part_x = y - row, x - column
        upper = (
            integral[image, row, column] * (1 - part_x) + integral[image, row, column + 1] * part_x
        )
        lower = (
            integral[image, row + 1, column] * (1 - part_x)
            + integral[image, row + 1, column + 1] * part_x
        )
        return upper * (1 - part_y) + lower * part_y

    inside = (
        below(last[..., 0], last[..., 1]) - below(first[..., 0], last[..., 1])
        - below(last[..., 0], first[..., 1]) + below(first[..., 0], first[..., 1])
    )  # fmt: skip
    return inside / np.maximum((last - first).prod(axis=-1), 1e-9)


def centres(grids_BGG: Grids, place: Any) -> Any:
    """Places [.., B, 2] in the unit square, drawn where the grids count, from uniform numbers [.., B, 2].

    The first number chooses the cell, and what is left of it the height inside the cell.
    """
    points = np.empty(place.shape)
    for number, grid in enumerate(grids_BGG):
        weights = grid.reshape(-1).astype(np.float64)
        total = weights.cumsum()
        target = place[..., number, 0] * total[-1]
        cell = np.minimum(np.searchsorted(total, target, side="right"), weights.size - 1)
        within = np.clip((target - total[cell]) / np.maximum(weights[cell], 1e-9) + 1, 0, 1)
        points[..., number, 0] = (cell // GRID + within) / GRID
        points[..., number, 1] = (cell % GRID + place[..., number, 1]) / GRID
    return points
