"""What the tags of a TIFF say of its values: colours, inks, palette, transparency, nodata, channels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jepack.decoding.intensity import Raw
from jepack.errors import TooLargeError

MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
COLOURS = {MIN_IS_WHITE: 1, MIN_IS_BLACK: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, 8: 3}
ALPHA = (1, 2)  # ExtraSamples: associated (multiplied in) and unassociated; 0 is a channel of data
BYTES_OF_A_TILE = 128 << 20  # decoded whole, however small the picture is

DEPTH = (
    "jepack: bits"  # note in a file of ours whose values fill fewer than 16 bits (see carried.py)
)

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Tags:
    """What the tags of a page say about its values."""

    samples: int = 1
    bits: int = 8
    signed: bool = False
    floating: bool = False
    photometric: int = MIN_IS_BLACK
    extras: tuple[int, ...] = ()
    nodata: float | None = None
    tile: int = 0  # pixels of one tile
    notes: str = ""  # ImageDescription, where ImageJ and OME tell their axes

    @classmethod
    def read(cls, get: Callable[[int], Any]) -> Tags:
        """From a function that gives the value of a tag, None where there is none."""
        kinds = numbers(get(339)) or (1,)
        samples = max((numbers(get(277)) or (1,))[0], 1)
        photometric = (numbers(get(262)) or (MIN_IS_BLACK,))[0]
        # More samples than colours need a tag that says what they are; without it they are data.
        spare = samples - COLOURS.get(photometric, samples)
        extras = numbers(get(338)) or (0,) * max(0, spare)
        tile = numbers(get(322)) + numbers(get(323))
        return cls(
            samples, max(numbers(get(258)) or (1,)), 2 in kinds, 3 in kinds, photometric,
            extras, number(get(42113)), math.prod(tile) if len(tile) == 2 else 0, text(get(270)),
        )  # fmt: skip

    @property
    def alpha(self) -> int | None:
        """Which sample is transparency."""
        for place, meaning in enumerate(self.extras):
            if meaning in ALPHA:
                return self.samples - len(self.extras) + place
        return None

    @property
    def channels(self) -> int:
        """Of the picture as an encoder may take it: colours of a palette or of inks are three."""
        if self.photometric in (PALETTE, CMYK):
            return 3
        return self.samples - (self.alpha is not None)

    @property
    def depth(self) -> int:
        """Raw.bits of unsigned integers."""
        note, _, bits = self.notes.rpartition(" ")
        return int(bits) if note == DEPTH and bits in map(str, range(9, 16)) else 16

    @property
    def told_axes(self) -> bool:
        """Whether the page's notes may say that channels lie on pages."""
        imagej = self.notes.startswith("ImageJ=") and "channels=" in self.notes
        return imagej or "<OME" in self.notes or '"axes"' in self.notes


def numbers(value: Any) -> tuple[int, ...]:
    try:
        return tuple(int(one) for one in (value if isinstance(value, (tuple, list)) else (value,)))
    except (TypeError, ValueError):
        return ()


def text(value: Any) -> str:
    if isinstance(value, bytes):
        return value[:4096].decode("latin-1")
    return str(value or "")


def number(value: Any) -> float | None:
    """GDAL's nodata is a number as text."""
    try:
        return float(text(value).strip(" \0"))
    except ValueError:
        return None


def check_tile(tags: Tags, value_bytes: int) -> None:
    if tags.tile * value_bytes > BYTES_OF_A_TILE:
        raise TooLargeError(
            f"tiff: its tiles of {tags.tile / 1e6:.0f} megapixels unpack to "
            f"{tags.tile * value_bytes / 1e6:,.0f} MB, the limit is {BYTES_OF_A_TILE / 1e6:.0f} MB"
        )


def resolve(values: Values, tags: Tags, colormap: Any = None) -> Raw:
    """[H, W, samples] as they lie in a file -> the picture they mean."""
    photometric = tags.photometric
    if photometric == PALETTE and colormap is not None:
        table = (np.asarray(colormap) >> 8).astype(np.uint8).T  # [entries, 3], the high byte
        return Raw(table[values[..., 0]], colour=True)
    alpha = None
    if tags.alpha is not None and tags.alpha < values.shape[2]:
        layer = values[..., tags.alpha]
        values = np.delete(values, tags.alpha, axis=2)
        if tags.extras[tags.alpha - tags.samples + len(tags.extras)] == 1:
            values = divided(values, layer)
        alpha = layer
    if photometric == CMYK and values.shape[2] >= 4:
        values = from_inks(values)
    return Raw(
        values,
        inverted=photometric == MIN_IS_WHITE,
        nodata=tags.nodata,
        alpha=alpha,
        colour=photometric in (RGB, CMYK, YCBCR) and values.shape[2] >= 3,
    )


def top_of(kind: Any) -> float:
    return 1.0 if kind.kind == "f" else float(np.iinfo(kind).max)


def divided(values: Values, layer: Values) -> Values:
    """Colours that were multiplied by their opacity, as they were before."""
    top = top_of(values.dtype)
    opaque = np.where(layer == 0, top, layer).astype(np.float64)[..., None]
    return np.minimum(np.rint(values * (top / opaque)), top).astype(values.dtype)


def from_inks(values: Values) -> Values:
    """Cyan, magenta, yellow and black -> RGB, by Pillow's rule at any depth."""
    top = top_of(values.dtype)
    light = top - values[..., 3:4].astype(np.float64)
    return np.rint(light - values[..., :3] * (light / top)).astype(values.dtype)
