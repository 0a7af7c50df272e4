"""The map as a picture: for a browser that cannot draw it."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageColor

from app.colouring import Colouring
from app.store import Vectors

PLAIN = "#0b6e69"


def draw(xy_N2: Vectors, coloured: Colouring | None, side: int) -> Image.Image:
    """A square picture on a see-through ground; a point is 1 to 5 pixels wide, less where there are many."""
    at = ((xy_N2 * np.array([1, -1]) + 1) / 2 * (side - 1)).astype(np.int64)
    radius = 2 if len(at) <= 5000 else 1 if len(at) <= 50_000 else 0
    palette = coloured.colours if coloured is not None else (PLAIN,)
    rgba = np.array([(*ImageColor.getrgb(one), 255) for one in palette], np.uint8)
    codes = coloured.codes_N if coloured is not None else np.zeros(len(at), np.int64)
    canvas = np.zeros((side, side, 4), np.uint8)
    steps = range(-radius, radius + 1)
    for down in steps:
        for right in steps:
            if right * right + down * down <= radius * radius + 1:
                x, y = (at + np.array([right, down])).clip(0, side - 1).T
                canvas[y, x] = rgba[codes]
    return Image.fromarray(canvas)
