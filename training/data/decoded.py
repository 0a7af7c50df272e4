"""One image of a data set, decoded and shrunk to what training keeps of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jepack.decoding import Pixels, Window, preprocess
from jepack.errors import DataError, SourceError
from jepack.sources import ImageFile, full_size, full_size_of_part
from training.data.content import WHOLE, Grids, mask_of


@dataclass(frozen=True)
class Decoded:
    """Pixels [H, W, C], and where to look in them."""

    pixels: Pixels
    sha: str  # SHA-256 of the image's bytes, hex
    box: list[int] | None = None  # top, left, height, width, px of `pixels`
    mask: Grids | None = None


def gathered(images: Sequence[Decoded]) -> tuple[Any, Grids | None]:
    """Regions [B, 4] and masks [B, G, G] of some images, None where none of them has one."""
    regions = masks = None
    if any(one.box is not None for one in images):
        boxes = [one.box or [0, 0, *one.pixels.shape[:2]] for one in images]
        regions = np.array(boxes, dtype=np.int64)
    if any(one.mask is not None for one in images):
        masks = np.stack([WHOLE if one.mask is None else one.mask for one in images])
    return regions, masks


def decode_file(
    file: ImageFile, side: int, channels: int, window: Window, crop_mode: str = "center"
) -> Decoded:
    """The image, shrunk for crops of `side` px. Raises DataError with the bare reason it is bad,
    SourceError when it is only out of reach."""
    try:
        content = file.read()
        whole = preprocess.decode(content, channels, window)
        pixels = shrink(whole, side, crop_mode)
        full = None if file.box is None else full_size_in(file)
        return Decoded(
            pixels,
            hashlib.sha256(content).hexdigest(),
            None if file.box is None else scaled(file, full or whole.shape[:2], pixels.shape[:2]),
            None if file.mask is None else mask_of(file, whole.shape[:2]),
        )
    except SourceError:
        raise
    except Exception as error:  # of whatever kind: it is this image's, and ends nothing
        reason = str(error).removeprefix(f"{file.name}: ")
        reason = reason.removeprefix(f"{file.path}: ")
        if isinstance(error, MemoryError):
            reason = "needs more memory than there is"
        raise DataError(reason or type(error).__name__) from error


def full_size_in(file: ImageFile) -> tuple[int, int] | None:
    """Height and width that a box counts in, px, where the file is read smaller."""
    if file.part is None:
        return full_size(file.path)
    return full_size_of_part(file.path, file.part)


def scaled(file: ImageFile, before: tuple[int, ...], after: tuple[int, ...]) -> list[int]:
    """The file's box as top, left, height, width in the kept pixels. DataError when it lies outside."""
    assert file.box is not None
    left, top, width, height = file.box
    if left < 0 or top < 0 or left + width > before[1] + 1 or top + height > before[0] + 1:
        raise DataError(f"its box {file.box} leaves the picture of {before[1]} x {before[0]} px")
    y, x = after[0] / before[0], after[1] / before[1]
    return [round(top * y), round(left * x), max(1, round(height * y)), max(1, round(width * x))]


def shrink(pixels_HWC: Pixels, side: int, crop_mode: str = "center") -> Pixels:
    """What becomes the side of the square down to at most `side` px, antialiased; never enlarged.

    That is the shorter side where the middle is cut, the longer one of a whole image (border), both where it
    is squashed.
    """
    height, width = pixels_HWC.shape[:2]
    if crop_mode == "squash":
        return preprocess.resize(pixels_HWC, min(side, height), min(side, width))
    scale = side / (min if crop_mode == "center" else max)(height, width)
    if scale >= 1:
        return pixels_HWC
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    return preprocess.resize(pixels_HWC, rows, columns)
