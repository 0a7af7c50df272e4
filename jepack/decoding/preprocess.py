"""Image bytes -> the uint8 crop an encoder sees: pictures.py, tiff.py and deep.py open the file.

The one place that decodes: training's cache, golden images, the Triton model and the app all call it,
so training and serving cannot drift apart. H, W, C name height, width, channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from jepack.decoding import pictures
from jepack.decoding.cropping import INTERPOLATIONS, Preprocessing, crop, resize
from jepack.decoding.deep import READERS, kind_of, read_array, size_of_file
from jepack.decoding.intensity import Pixels, Raw, Window, shown, to_eight_bits
from jepack.decoding.limits import SERVED
from jepack.decoding.pictures import open_picture
from jepack.decoding.tiff import open_tiff
from jepack.errors import DataError, DecoderError, DependencyError, DepthError, TooLargeError

__all__ = [
    "INTERPOLATIONS",
    "MAX_BYTES",
    "SUFFIXES",
    "Pixels",
    "Preprocessing",
    "crop",
    "decode",
    "load",
    "match_channels",
    "naming",
    "open_image",
    "read_raw",
    "resize",
]

SUFFIXES = (*pictures.SUFFIXES, ".npy", ".dcm", ".dicom", ".ima", ".fits", ".fit")
MAX_BYTES = SERVED.bytes


def load(source: bytes | Path, preprocessing: Preprocessing) -> Pixels:
    """Bytes or a file -> [size, size, C] uint8, ready for the encoder. Raises DataError as `decode` does."""
    pixels = decode(source, preprocessing.channels, preprocessing.window)
    with naming(source):
        return crop(pixels, preprocessing)


def decode(source: bytes | Path, channels: int, window: Window = None) -> Pixels:
    """Bytes or a file -> [H, W, C] uint8; EXIF orientation applied, first frame only.

    Fixed answers: CMYK and palettes become RGB; alpha is laid over white; 16-bit integers keep their
    high byte unless there is a window; RGB becomes grey by ITU-R 601 luma; of a picture with further
    channels an encoder of three takes red, green and blue. Raises DataError saying why an image is refused.
    """
    with naming(source):
        image = open_image(source, channels, deep=isinstance(window, tuple))
        if isinstance(image, Raw):
            return match_channels(to_eight_bits(image.taken_by(channels), window), channels)
        pixels = to_channels(image, channels)
        # An 8-bit picture under a window: the window is in its own units, 0..255.
        return shown(pixels, window) if isinstance(window, tuple) else pixels


def read_raw(source: bytes | Path, channels: int | None = None, *, windowed: bool = True) -> Raw:
    """The values as the file holds them, for measuring; raises DataError as `decode` does.

    `channels`: of the encoder, where it is known; it says which axis of an array holds them. Colour whose
    depth cannot be kept is refused as under a window; without `windowed` it is read with 8 bits, as `decode`
    reads it without one.
    """
    with naming(source):
        reduced = False
        try:
            image = open_image(source, channels, deep=True)
        except DepthError:
            if windowed:
                raise
            image, reduced = open_image(source, channels, deep=False), True
        if isinstance(image, Raw):
            return image.taken_by(channels)
        grey = image.mode in ("1", "L", "LA")
        return Raw(to_channels(image, 1 if grey else 3), reduced=reduced)


@contextmanager
def naming(source: bytes | Path) -> Iterator[None]:
    """Give every refusal the file's name; of bytes whoever sent them knows it."""
    name = "" if isinstance(source, bytes) else f"{source}: "
    try:
        yield
    except DataError as error:
        raise type(error)(f"{name}{error}") from error
    except DependencyError as error:
        raise DecoderError(f"{name}{error}") from error
    except MemoryError as error:
        raise DataError(f"{name}needs more memory than there is") from error
    except Exception as error:
        # Pillow's parsers raise a wide family (OSError, SyntaxError, struct.error, ...); memory or
        # recursion that one image exhausts is that image's fault too.
        reason = str(error).replace(repr(error), "") or type(error).__name__
        raise DataError(f"{name}{reason}") from error


def open_image(source: bytes | Path, channels: int | None, *, deep: bool) -> Image.Image | Raw:
    """A decoded, upright Pillow image, or Raw values where Pillow would lose depth or channels.

    `deep`: depth beyond 8 bits matters, because a window will be applied.
    """
    try:
        if isinstance(source, Path) and (size := size_of_file(source)) > MAX_BYTES:
            raise too_many_bytes(size)
        data = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})") from error
    if not data:
        raise DataError("empty file")
    if len(data) > MAX_BYTES:
        raise too_many_bytes(len(data))
    kind = kind_of(data)
    if kind in READERS:
        return read_array(kind, data, channels)
    if kind == "tiff":
        return open_tiff(data, channels, deep=deep)
    return open_picture(data, kind, deep=deep)


def too_many_bytes(size: int) -> TooLargeError:
    return TooLargeError(f"{size / 1e6:.0f} MB, the limit is {MAX_BYTES / 1e6:.0f} MB")


def to_channels(image: Image.Image, channels: int) -> Pixels:
    """A Pillow image of 8 bits and any mode -> [H, W, channels] uint8."""
    if channels not in (1, 3):
        pixels = np.asarray(image, dtype=np.uint8)
        return match_channels(pixels.reshape(image.height, image.width, -1), channels)
    mode = "L" if channels == 1 else "RGB"
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        paper = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(paper, rgba)
    if image.mode != mode:
        image = image.convert("RGB") if image.mode in ("CMYK", "YCbCr", "P", "LAB") else image
        image = image.convert(mode)
    pixels = np.asarray(image, dtype=np.uint8)
    return np.ascontiguousarray(pixels.reshape(image.height, image.width, channels))


def match_channels(pixels_HWC: Pixels, channels: int) -> Pixels:
    """Grey repeated to RGB, RGB to grey by luma; anything else must have the channels asked for."""
    given = pixels_HWC.shape[2]
    if given == channels:
        return np.ascontiguousarray(pixels_HWC)
    if (given, channels) == (1, 3):
        return np.repeat(pixels_HWC, 3, axis=2)
    if (given, channels) == (3, 1):
        grey = Image.fromarray(np.ascontiguousarray(pixels_HWC)).convert("L")
        return np.asarray(grey, dtype=np.uint8)[..., None].copy()
    raise DataError(f"has {given} channels, the encoder takes {channels}")
