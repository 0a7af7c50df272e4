"""Whole images on the square that serving sees, so that their views can be cut from it.

B images, H x W pixels, L = max(H, W), C channels, G cells a side of a grid.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from jepack.decoding import Preprocessing, framed
from training.data import Fetched, Grids, Ints


def fitted(
    fetched: Fetched, contents: Grids | None, preprocessing: Preprocessing
) -> tuple[Fetched, Grids | None]:
    """Images, and what counts in them, as views are cut from: on a square where serving lays them on one."""
    if preprocessing.crop_mode != "border":
        return fetched, contents
    if contents is not None:
        contents = grids_on_canvas(contents, fetched.shapes)
    return on_canvas(fetched, preprocessing), contents


def on_canvas(fetched: Fetched, preprocessing: Preprocessing) -> Fetched:
    """Each image in the middle of a square [L, L, C] of the mean colour, its region and mask with it."""
    shapes = np.repeat(fetched.shapes.max(axis=1, keepdims=True), 2, axis=1)
    starts = (shapes - fetched.shapes) // 2
    moved = np.concatenate([starts, np.zeros_like(starts)], axis=1)
    return Fetched(
        [framed(image, max(image.shape[:2]), preprocessing) for image in fetched.images],
        shapes,
        None if fetched.regions is None else fetched.regions + moved,
        None if fetched.masks is None else grids_on_canvas(fetched.masks, fetched.shapes),
        fetched.indices,
        np.concatenate([starts, fetched.shapes], axis=1),
    )


def grids_on_canvas(grids_BGG: Grids, shapes_B2: Ints) -> Grids:
    """What counts in each image -> what counts in its canvas: nothing of the paper does."""
    result = np.zeros_like(grids_BGG)
    cells = grids_BGG.shape[1]
    for number, (height, width) in enumerate(shapes_B2.tolist()):
        side = max(height, width)
        rows, columns = (max(1, round(cells * extent / side)) for extent in (height, width))
        top, left = (cells - rows) // 2, (cells - columns) // 2
        grid: Any = grids_BGG[number]
        if (rows, columns) != (cells, cells):
            grid = cv2.resize(grid, (columns, rows), interpolation=cv2.INTER_AREA)
        result[number, top : top + rows, left : left + columns] = grid
    return result
