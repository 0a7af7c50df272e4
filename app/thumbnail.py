"""Small pictures for the page, made from the same decoder as everything else."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jepack.decoding import LONGER, Pixels, Raw, Window, narrow_span, preprocess, to_eight_bits
from jepack.errors import AxisError, DataError

SIDE = 256  # px, longer side: sharp at the page's 128 px on a high-density screen
QUALITY = 80
EFFORT = 1  # of 6; twice as fast as the default for 20 % more bytes


def seen(source: bytes | Path, window: Window = None) -> tuple[Pixels, bool]:
    """[H, W, 3] as a person may look at it, and whether its values fill little of their depth.

    By the encoder's window where there is one; else what has no fixed meaning, or fills so little of it that
    it would be black, by its own middle 98 %. Raises DataError when it cannot be read.
    """
    try:
        raw = preprocess.read_raw(source, 3)
    except AxisError:
        raw = preprocess.read_raw(source, LONGER)
    except DataError:  # deep colour that Pillow keeps 8 bits of; else it tells again what is wrong
        return preprocess.decode(source, 3), False
    values = raw.values[..., :3] if raw.values.shape[2] >= 3 else raw.values[..., :1]
    raw, narrow = replace(raw, values=values), narrow_span(raw)[1] is not None
    spans = window[: values.shape[2]] if isinstance(window, tuple) else None
    if spans is not None and len(spans) not in (1, values.shape[2]):
        spans = None
    if spans is None and (narrow or not has_meaning(raw)):
        spans = (middle(raw.measured),)
    return preprocess.match_channels(to_eight_bits(raw, spans), 3), narrow


def has_meaning(raw: Raw) -> bool:
    """Whether the values can be shown without a window."""
    try:
        to_eight_bits(raw, None)
    except DataError:
        return False
    return True


def middle(values: Any) -> tuple[float, float]:
    """The middle 98 % of what was measured."""
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, [1, 99]) if finite.size else (0.0, 1.0)
    return float(low), float(high) if high > low else float(low) + 1


def make_thumbnail(source: bytes | Path, window: Window = None) -> bytes:
    """An image as WebP of at most SIDE px, about 3 kB. Raises DataError when it cannot be read."""
    return thumbnail_of(source, window)[0]


def thumbnail_of(source: bytes | Path, window: Window = None) -> tuple[bytes, bool]:
    """The thumbnail, and whether the image's values fill little of their depth."""
    with preprocess.naming(source):
        pixels_HWC, narrow = seen(source, window)
        return webp(pixels_HWC), narrow


def size_of(thumbnail: bytes) -> tuple[int, int]:
    """(height, width) of a thumbnail, px, from its header; (1, 1) for what is none."""
    try:
        with Image.open(io.BytesIO(thumbnail)) as picture:
            return picture.height, picture.width
    except (OSError, ValueError, SyntaxError):
        return 1, 1


def webp(pixels_HWC: Pixels) -> bytes:
    height, width = pixels_HWC.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    small = preprocess.resize(
        pixels_HWC, max(1, round(height * scale)), max(1, round(width * scale)), "bilinear"
    )
    stream = io.BytesIO()
    Image.fromarray(small).save(stream, "WEBP", quality=QUALITY, method=EFFORT)
    return stream.getvalue()


def at_most(picture: bytes, size: int) -> bytes:
    """A thumbnail of at most `size` bytes: as it is, or at half its side until it fits; for noise."""
    while len(picture) > size:
        with Image.open(io.BytesIO(picture)) as image:
            half = image.resize((max(1, image.width // 2), max(1, image.height // 2)))
        buffer = io.BytesIO()
        half.save(buffer, "WEBP", quality=QUALITY, method=EFFORT)
        picture = buffer.getvalue()
    return picture
