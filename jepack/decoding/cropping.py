"""How pixels reach an encoder, and the crop that this asks for. H, W, C name height, width, channels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from jepack.decoding.intensity import Pixels, Window, checked_window
from jepack.decoding.limits import MAX_PIXELS
from jepack.errors import ConfigError

# timm's: center keeps the shape and cuts the longer side; squash makes every image a square; border fits the
# whole image in and fills up with the mean colour.
CROP_MODES = ("center", "squash", "border")
FITS = {"crop": "center", "pad": "border", "squash": "squash"}  # what `--fit` calls them
ELONGATED = 1.5  # longer over shorter side; a centre crop then misses a third
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


def crop(pixels_HWC: Pixels, preprocessing: Preprocessing) -> Pixels:
    """[H, W, C] -> [size, size, C]: resized by the crop mode to size / crop_pct, then the centre.

    The rules of timm's and torchvision's evaluation transforms, to the pixel.
    """
    height, width = resized_to(pixels_HWC.shape[:2], preprocessing)
    if preprocessing.crop_mode != "border":
        return middle(pixels_HWC, height, width, preprocessing)
    resized_HWC = resize(pixels_HWC, height, width, preprocessing.interpolation)
    framed_HWC = framed(resized_HWC, preprocessing.size, preprocessing)
    height, width = framed_HWC.shape[:2]
    return middle(framed_HWC, height, width, preprocessing)


def seen_box(
    height: int, width: int, crop_pct: float = 1.0, crop_mode: str = "center"
) -> tuple[float, float, float, float]:
    """(top, left, height, width), 0..1: the part of an image that `crop` keeps."""
    if not height or not width:
        return 0.0, 0.0, 1.0, 1.0
    if crop_mode == "squash":
        tall = wide = crop_pct
    else:
        side = (min if crop_mode == "center" else max)(height, width) * crop_pct
        tall, wide = min(1.0, side / height), min(1.0, side / width)
    return (1 - tall) / 2, (1 - wide) / 2, tall, wide


def elongation(shapes: Iterable[tuple[int, int]]) -> str | None:
    """A sentence on the images (height, width) of which a centre crop misses a third or more; None where
    they are fewer than one in a hundred."""
    ratios = [min(shape) / max(shape) for shape in shapes if min(shape) > 0]
    seen = [ratio for ratio in ratios if 1 / ratio >= ELONGATED]
    if not seen or len(seen) < 0.01 * len(ratios):
        return None
    return (
        f"{len(seen):,} of {len(ratios):,} images ({len(seen) / len(ratios):.0%}) are elongated "
        f"({ELONGATED:g} to 1 or more): an encoder that crops sees their central square alone, on average "
        f"{sum(seen) / len(seen):.0%} of each. Where the ends matter: `--fit pad` of train and import shows "
        "it them whole"
    )


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


def framed(pixels_HWC: Pixels, side: int, preprocessing: Preprocessing) -> Pixels:
    """The image in the middle of the mean colour, which is 0 once normalised; at least [side, side, C]."""
    height, width, channels = pixels_HWC.shape
    shape = (max(side, height), max(side, width), channels)
    if shape == pixels_HWC.shape:
        return pixels_HWC
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
