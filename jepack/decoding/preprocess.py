"""Image bytes -> the uint8 crop an encoder sees: pictures.py, tiff.py and deep.py open the file.

The one place that decodes: training's cache, golden images, the Triton model and the app all call it,
so training and serving cannot drift apart. H, W, C name height, width, channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jepack.decoding import pictures
from jepack.decoding.deep import READERS, kind_of, read_array, size_of_file
from jepack.decoding.intensity import Pixels, Raw, Window, checked_window, shown, to_eight_bits
from jepack.decoding.limits import MAX_PIXELS, SERVED
from jepack.decoding.pictures import open_picture
from jepack.decoding.tiff import open_tiff
from jepack.errors import (
    ConfigError,
    DataError,
    DecoderError,
    DependencyError,
    DepthError,
    TooLargeError,
)

SUFFIXES = (*pictures.SUFFIXES, ".npy", ".dcm", ".dicom", ".ima", ".fits", ".fit")
MAX_BYTES = SERVED.bytes

# timm's: center keeps the shape and cuts the longer side; squash makes every image a square; border fits the
# whole image in and fills up with the mean colour.
CROP_MODES = ("center", "squash", "border")
INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}
# Half the width of each filter, in pixels of the larger side's grid.
REACH = {
    Image.Resampling.BICUBIC: 2.0,
    Image.Resampling.BILINEAR: 1.0,
    Image.Resampling.LANCZOS: 3.0,
}


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How pixels reach an encoder; stored in the bundle and applied by the same code everywhere."""

    size: int  # px, side of the square crop
    channels: int = 3  # 1 (grey), 3 (RGB) or as many as the files have
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # per channel, on the 0..1 scale
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    crop_pct: float = 1.0  # side of the crop over the shorter side after resizing
    interpolation: str = "bicubic"
    window: Window = None  # intensities shown as 0..255, see intensity.py
    crop_mode: str = "center"  # one of CROP_MODES

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ConfigError(f"channels must be at least 1, found {self.channels}")
        object.__setattr__(self, "window", checked_window(self.window, self.channels))
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ConfigError(
                f"{self.channels} channels need as many means and stds, "
                f"found {len(self.mean)} and {len(self.std)}"
            )
        if self.size < 8 or not 0.1 <= self.crop_pct <= 1 or min(self.std) <= 0:
            raise ConfigError(
                f"size must be >= 8, crop_pct in [0.1, 1], std > 0; found size {self.size}, "
                f"crop_pct {self.crop_pct}, std {self.std}"
            )
        if self.interpolation not in INTERPOLATIONS:
            known = ", ".join(INTERPOLATIONS)
            raise ConfigError(f"interpolation must be one of {known}, found {self.interpolation}")
        if self.crop_mode not in CROP_MODES:
            known = ", ".join(CROP_MODES)
            raise ConfigError(f"crop_mode must be one of {known}, found {self.crop_mode}")

    def to_json(self) -> dict[str, Any]:
        """A centre crop goes without saying: the fingerprints of earlier bundles stay what they are."""
        window = self.window if self.window in (None, "dicom") else [list(p) for p in self.window]
        value = {**asdict(self), "mean": list(self.mean), "std": list(self.std), "window": window}
        if self.crop_mode == "center":
            del value["crop_mode"]
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Preprocessing:
        """Bundles written before windows existed have no `window`."""
        return cls(**{**value, "mean": tuple(value["mean"]), "std": tuple(value["std"])})


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
        found = open_image(source, channels, deep=isinstance(window, tuple))
        if isinstance(found, Raw):
            return match_channels(to_eight_bits(found.taken_by(channels), window), channels)
        pixels = to_channels(found, channels)
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
            found = open_image(source, channels, deep=True)
        except DepthError:
            if windowed:
                raise
            found, reduced = open_image(source, channels, deep=False), True
        if isinstance(found, Raw):
            return found.taken_by(channels)
        grey = found.mode in ("1", "L", "LA")
        return Raw(to_channels(found, 1 if grey else 3), reduced=reduced)


@contextmanager
def naming(source: bytes | Path) -> Iterator[None]:
    """Give every refusal the image's name."""
    name = "image" if isinstance(source, bytes) else str(source)
    try:
        yield
    except DataError as error:
        raise type(error)(f"{name}: {error}") from error
    except DependencyError as error:
        raise DecoderError(f"{name}: {error}") from error
    except MemoryError as error:
        raise DataError(f"{name}: needs more memory than there is") from error
    except Exception as error:
        # Pillow's parsers raise a wide family (OSError, SyntaxError, struct.error, ...); memory or
        # recursion that one image exhausts is that image's fault too.
        reason = str(error).replace(repr(error), "") or type(error).__name__
        raise DataError(f"{name}: {reason}") from error


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
    found = pixels_HWC.shape[2]
    if found == channels:
        return np.ascontiguousarray(pixels_HWC)
    if (found, channels) == (1, 3):
        return np.repeat(pixels_HWC, 3, axis=2)
    if (found, channels) == (3, 1):
        grey = Image.fromarray(np.ascontiguousarray(pixels_HWC)).convert("L")
        return np.asarray(grey, dtype=np.uint8)[..., None].copy()
    raise DataError(f"has {found} channels, the encoder takes {channels}")


def crop(pixels_HWC: Pixels, preprocessing: Preprocessing) -> Pixels:
    """[H, W, C] -> [size, size, C]: resized by the crop mode to size / crop_pct, then the centre.

    The rules of timm's and torchvision's evaluation transforms, to the pixel.
    """
    height, width = resized_to(pixels_HWC.shape[:2], preprocessing)
    if preprocessing.crop_mode != "border":
        return middle(pixels_HWC, height, width, preprocessing)
    framed_HWC = framed(
        resize(pixels_HWC, height, width, preprocessing.interpolation), preprocessing
    )
    height, width = framed_HWC.shape[:2]
    return middle(framed_HWC, height, width, preprocessing)


def middle(
    pixels_HWC: Pixels, new_height: int, new_width: int, preprocessing: Preprocessing
) -> Pixels:
    """[H, W, C] -> [size, size, C]: the centre of the image resized to new_height x new_width."""
    size, (height, width, channels) = preprocessing.size, pixels_HWC.shape
    top = round((new_height - size) / 2.0)
    left = round((new_width - size) / 2.0)
    method = INTERPOLATIONS[preprocessing.interpolation]
    if new_height * new_width > MAX_PIXELS:
        # Long strips: enlarging all of one to cut its middle would take gigabytes.
        rows, above, below = span_of(height, new_height, top, size, method)
        columns, first, last = span_of(width, new_width, left, size, method)
        pixels_HWC = pixels_HWC[rows, columns]

        def cut(plane: Image.Image) -> Pixels:
            return np.asarray(plane.resize((size, size), method, box=(first, above, last, below)))

    elif (height, width) == (new_height, new_width):
        return np.ascontiguousarray(pixels_HWC[top : top + size, left : left + size])
    else:

        def cut(plane: Image.Image) -> Pixels:
            resized = np.asarray(plane.resize((new_width, new_height), method))
            return resized[top : top + size, left : left + size]

    if channels == 3:
        return np.ascontiguousarray(cut(Image.fromarray(np.ascontiguousarray(pixels_HWC))))
    cropped = np.empty((size, size, channels), np.uint8)
    # One at a time: of a picture of 200 channels one is held enlarged, not 200.
    for c in range(channels):
        cropped[..., c] = cut(Image.fromarray(np.ascontiguousarray(pixels_HWC[..., c])))
    return cropped


def span_of(old: int, new: int, start: int, size: int, method: Any) -> tuple[slice, float, float]:
    """Where `size` of the `new` px from `start` come from: pixels to keep of the `old`, and the box in them.

    The pixels kept reach as far beyond the box as the filter does.
    """
    scale = old / new
    reach = 1 + int(REACH[method] * max(1.0, scale)) + 1
    low, high = start * scale, (start + size) * scale
    first, last = max(0, int(low) - reach), min(old, int(high) + 1 + reach)
    return slice(first, last), max(0.0, low - first), min(high - first, float(last - first))


def resized_to(shape: tuple[int, ...], preprocessing: Preprocessing) -> tuple[int, int]:
    """(height, width) that an image of this height and width gets before it is cropped."""
    height, width = shape
    size, short = preprocessing.size, int(preprocessing.size / preprocessing.crop_pct)
    if preprocessing.crop_mode == "squash":
        return short, short
    if preprocessing.crop_mode == "border":
        ratio = max(height / short, width / short)
        return max(1, round(height / ratio)), max(1, round(width / ratio))
    if height < width:
        return short, max(size, int(short * width / height))
    return max(size, int(short * height / width)), short


def framed(pixels_HWC: Pixels, preprocessing: Preprocessing) -> Pixels:
    """The image in the middle of the mean colour, at least [size, size, C]."""
    size, (height, width, channels) = preprocessing.size, pixels_HWC.shape
    shape = (max(size, height), max(size, width), channels)
    paper = np.array([round(255 * value) for value in preprocessing.mean], np.uint8)
    canvas = np.broadcast_to(paper, shape).copy()
    top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    canvas[top : top + height, left : left + width] = pixels_HWC
    return canvas


def resize(pixels_HWC: Pixels, height: int, width: int, interpolation: str = "bicubic") -> Pixels:
    """Antialiased resize by Pillow, [H, W, C] -> [height, width, C]."""
    if pixels_HWC.shape[:2] == (height, width):
        return pixels_HWC
    method, channels = INTERPOLATIONS[interpolation], pixels_HWC.shape[2]
    if channels == 3:
        return np.asarray(Image.fromarray(pixels_HWC).resize((width, height), method))
    planes = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(pixels_HWC[..., c])).resize(
                (width, height), method
            )
        )
        for c in range(channels)
    ]
    return np.stack(planes, axis=-1)
