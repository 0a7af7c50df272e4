"""The images of an index as they lie on disk: to look at in full, and to cut a part out of."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from app.store import IndexInfo
from app.thumbnail import seen
from jepack.decoding import Pixels, Window, decode, hidden
from jepack.decoding.preprocess import resize
from jepack.errors import DataError
from jepack.names import original
from jepack.sources import ImageFile

Box = tuple[
    float, float, float, float
]  # left, top, right, bottom as shares of the upright image, 0..1
LARGEST = 2048  # px, longer side of what is shown in full
LEAST = 4  # px, shorter side of a part that can be searched with


def read_original(info: IndexInfo, name: str) -> bytes:
    """The bytes of an image of the index, which its `name` must be one of.

    Raises DataError where it has gone or cannot be read.
    """
    base, text = Path(info.data), original(name)
    path, part = base / text, None
    if not path.exists() and "#" in text:
        file, _, part = text.partition("#")
        path = base / file
    if not path.exists():
        raise DataError(
            f"{name}: the image itself is not at {path}, so only its vector and its thumbnail are "
            "here. Put the images back where they were indexed, or index them again"
        )
    return ImageFile(path, part=part).read()


def cut(source: bytes, box: Box, channels: int, window: Window) -> bytes:
    """A part of an image as an image of its own, which the encoder sees with exactly the same pixels.

    Decoded as in training, for an encoder of `channels` under `window`, and kept without loss: as PNG, or
    as npy where the encoder's own window or its channels ask for it. Raises DataError.
    """
    return as_file(part_of(decode(source, channels, window), box), channels, window)


def as_file(pixels_HWC: Pixels, channels: int, window: Window) -> bytes:
    """Decoded pixels as a file from which the same `channels` and `window` give them back."""
    stream = io.BytesIO()
    if isinstance(window, tuple):
        np.save(stream, hidden(pixels_HWC, window))
    elif channels in (1, 3):
        Image.fromarray(pixels_HWC[..., 0] if channels == 1 else pixels_HWC).save(stream, "PNG")
    else:
        np.save(stream, pixels_HWC)
    return stream.getvalue()


def part_of(pixels_HWC: Pixels, box: Box) -> Pixels:
    """Raises DataError where the part is too small to search with."""
    height, width = pixels_HWC.shape[:2]
    left, top, right, bottom = box
    rows = slice(round(top * height), round(bottom * height))
    columns = slice(round(left * width), round(right * width))
    part = pixels_HWC[rows, columns]
    if min(part.shape[:2]) < LEAST:
        raise DataError(
            f"The part is {part.shape[1]} x {part.shape[0]} pixels of {width} x {height}: too little to "
            f"search with. Draw one of at least {LEAST} x {LEAST}."
        )
    return np.ascontiguousarray(part)


def full_size(source: bytes, window: Window = None, largest: int = LARGEST) -> bytes:
    """An image as WebP, as a person may look at it, of at most `largest` px. Raises DataError."""
    pixels = seen(source, window)[0]
    height, width = pixels.shape[:2]
    scale = min(1.0, largest / max(height, width))
    if scale < 1:
        size = max(1, round(height * scale)), max(1, round(width * scale))
        pixels = resize(pixels, *size, "bilinear")
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "WEBP", quality=92, method=1)
    return stream.getvalue()
