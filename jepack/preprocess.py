"""Image bytes -> the uint8 crop an encoder sees. Pillow and numpy, other formats by formats.py.

The one place that decodes: training's cache, golden images, the Triton model and the app all call it,
so training and serving cannot drift apart. H, W, C name height, width, channels.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jepack.errors import ConfigError, DataError, DependencyError
from jepack.formats import MAX_PIXELS, kind_of, read_array
from jepack.intensity import Pixels, Raw, Window, checked_window, shown, to_eight_bits

# A short fixed list: every format here is one more parser that meets hostile bytes.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif",
    ".npy", ".dcm", ".fits", ".fit",
)  # fmt: skip
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I", "F")  # more than 8 bits
MAX_BYTES = 64 * 1024 * 1024

# timm's: center keeps the shape and cuts the longer side; squash makes every image a square; border fits the
# whole image in and fills up with the mean colour.
CROP_MODES = ("center", "squash", "border")
INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
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
    """Bytes or a file -> [size, size, C] uint8, ready for the encoder."""
    pixels = decode(source, preprocessing.channels, preprocessing.window)
    return crop(pixels, preprocessing)


def decode(source: bytes | Path, channels: int, window: Window = None) -> Pixels:
    """Bytes or a file -> [H, W, C] uint8; EXIF orientation applied, first frame only.

    Fixed answers: CMYK and palettes become RGB; alpha is laid over white; 16-bit integers keep their
    high byte unless there is a window; RGB becomes grey by ITU-R 601 luma. Raises DataError saying why
    an image is refused.
    """
    with naming(source):
        found = open_image(source, channels, deep=isinstance(window, tuple))
        if isinstance(found, Raw):
            return match_channels(to_eight_bits(found, window), channels)
        pixels = to_channels(found, channels)
        # An 8-bit picture under a window: the window is in its own units, 0..255.
        return shown(pixels, window) if isinstance(window, tuple) else pixels


def read_raw(source: bytes | Path) -> Raw:
    """The values as the file holds them, for measuring; raises DataError as `decode` does."""
    with naming(source):
        found = open_image(source, None, deep=True)
        if isinstance(found, Raw):
            return found
        grey = found.mode in ("1", "L", "LA")
        return Raw(to_channels(found, 1 if grey else 3))


@contextmanager
def naming(source: bytes | Path) -> Iterator[None]:
    """Give every refusal the image's name."""
    name = "image" if isinstance(source, bytes) else str(source)
    try:
        yield
    except (DataError, DependencyError) as error:
        raise type(error)(f"{name}: {error}") from error
    except Exception as error:
        # Pillow's parsers raise a wide family (OSError, SyntaxError, struct.error, ...).
        reason = str(error).replace(repr(error), "") or type(error).__name__
        if "cannot identify image file" in reason:
            reason = f"not an image of a known format ({', '.join(FORMATS)})"
        raise DataError(f"{name}: {reason}") from error


def open_image(source: bytes | Path, channels: int | None, *, deep: bool) -> Image.Image | Raw:
    """A decoded, upright Pillow image, or Raw values where Pillow would lose depth or channels.

    `deep`: depth beyond 8 bits matters, because a window will be applied.
    """
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})") from error
    if not data:
        raise DataError("empty file")
    if len(data) > MAX_BYTES:
        raise DataError(f"{len(data) / 1e6:.0f} MB, the limit is {MAX_BYTES / 1e6:.0f} MB")
    kind = kind_of(data)
    if kind in ("npy", "dicom", "fits"):
        return read_array(kind, data, channels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            if kind == "tiff":
                return read_array(kind, data, channels)
            raise
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"{image.width} x {image.height} pixels, "
                    f"the limit is {MAX_PIXELS / 1e6:.0f} megapixels"
                )
            many = channels not in (None, 1, 3) and kind == "tiff"
            if many or (deep and bits_of(image, data) > 8 and image.mode not in DEEP_MODES):
                if kind == "tiff":
                    return read_array(kind, data, channels)
                raise DataError(
                    "16-bit colour outside TIFF keeps only 8 bits here, so a window cannot apply; "
                    "save it as TIFF or npy"
                )
            image.load()
            upright = ImageOps.exif_transpose(image)
            if wrapped := wrapped_as(image):
                return Raw(np.asarray(upright).view(wrapped)[..., None])
            if image.mode in DEEP_MODES:
                return Raw(np.asarray(upright)[..., None])
            return upright


def wrapped_as(image: Image.Image) -> str | None:
    """The type of a TIFF's values where Pillow takes them for another of their size."""
    if image.format != "TIFF" or image.mode not in ("L", "I"):
        return None
    signed = 2 in getattr(image, "tag_v2", {}).get(339, (1,))  # SampleFormat
    if image.mode == "L":
        return "int8" if signed else None
    return None if signed else "uint32"


def bits_of(image: Image.Image, data: bytes) -> int:
    """Bits per channel in the file, which Pillow's mode hides."""
    if image.format == "TIFF":
        found = getattr(image, "tag_v2", {}).get(258, (8,))
        return int(max(found)) if isinstance(found, tuple) else int(found)
    if image.format == "PNG":
        return data[24]  # IHDR's bit depth
    return 8


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
    size = preprocessing.size
    height, width = resized_to(pixels_HWC.shape[:2], preprocessing)
    resized = resize(pixels_HWC, height, width, preprocessing.interpolation)
    if preprocessing.crop_mode == "border":
        resized = framed(resized, preprocessing)
        height, width = resized.shape[:2]
    top = round((height - size) / 2.0)
    left = round((width - size) / 2.0)
    return np.ascontiguousarray(resized[top : top + size, left : left + size])


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
