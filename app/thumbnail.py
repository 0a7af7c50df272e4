"""Small pictures for the page, made from the same decoder as everything else."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from jepack import preprocess

SIDE = 256  # px, longer side: sharp at the page's 128 px on a high-density screen
QUALITY = 80
EFFORT = 1  # of 6; twice as fast as the default for 20 % more bytes


def make_thumbnail(source: bytes | Path) -> bytes:
    """An image as WebP of at most SIDE px, about 3 kB. Raises DataError when it cannot be read."""
    pixels_HWC = preprocess.decode(source, 3)
    height, width = pixels_HWC.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    small = preprocess.resize(
        pixels_HWC, max(1, round(height * scale)), max(1, round(width * scale)), "bilinear"
    )
    stream = io.BytesIO()
    Image.fromarray(small).save(stream, "WEBP", quality=QUALITY, method=EFFORT)
    return stream.getvalue()
