"""Values of any depth -> the 8 bits an encoder sees. NumPy only; training and serving both call it.

H, W, C name height, width, channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from jepack.errors import AxisError, ConfigError, DataError

Pixels = npt.NDArray[np.uint8]
BLOCK_VALUES = 4_000_000  # shown at a time, 32 MB of float64
LONGER = -1  # "channels" of which only a picture is wanted: the longer outer axis holds them
FEW = 4  # an axis this short holds channels, whatever the others are
# The span shown as 0..255: one (low, high) for all channels or one per channel, in the file's own
# units; "dicom" = the file's own window where it has one; None = 8 bits as they are, 16 by their high byte.
Window = str | tuple[tuple[float, float], ...] | None


@dataclass(frozen=True)
class Raw:
    """An image as its file holds it."""

    values: npt.NDArray[Any]  # [H, W, C], any integer, float or bool type
    window: tuple[float, float] | None = None  # the file's own, in the units of `values`
    inverted: bool = False  # low values are bright (DICOM's MONOCHROME1, TIFF's min-is-white)
    pictured: Pixels | None = None  # as the file itself shows them, where no window can say it
    nodata: float | None = None  # the value that means: nothing was measured here
    alpha: npt.NDArray[Any] | None = None  # [H, W], its depth's top = opaque, where a file has it
    colour: bool = False  # the first three channels are red, green and blue, says the file
    bits: int = 16  # depth of unsigned integers, whose high byte is taken without a window
    reduced: bool = False  # 8 bits of a file that holds more

    @property
    def missing(self) -> npt.NDArray[np.bool_] | None:
        """[H, W, C] where nothing was measured; None when that is nowhere."""
        empty, kind = None, self.values.dtype
        if self.nodata is not None and holds(kind, self.nodata):
            empty = self.values == np.array(self.nodata).astype(kind)
        if kind.kind == "f":
            unknown = np.isnan(self.values)
            empty = unknown if empty is None else empty | unknown
        return empty if empty is not None and empty.any() else None

    def taken_by(self, channels: int | None) -> Raw:
        """What an encoder of 1 or 3 channels takes of a picture that holds more than red, green and blue."""
        if self.colour and channels in (1, 3) and self.values.shape[2] > 3:
            return replace(self, values=self.values[..., :3])
        return self

    @property
    def measured(self) -> npt.NDArray[Any]:
        """`values`, with NaN where nothing was measured: for percentiles, extremes and means."""
        missing = self.missing
        if missing is None or self.nodata is None:
            return self.values
        kind = np.float32 if self.values.dtype.itemsize <= 2 else np.float64
        return np.where(missing, np.nan, self.values.astype(kind))


def holds(kind: Any, value: float) -> bool:
    """Whether a type of values can hold this one."""
    if kind.kind not in "iu":
        return kind.kind == "f"
    limits = np.iinfo(kind)
    return float(value).is_integer() and limits.min <= value <= limits.max


def checked_window(value: Any, channels: int) -> Window:
    """A window as stored in JSON -> a Window, or ConfigError."""
    if value is None or value == "dicom":
        return value  # type: ignore[no-any-return]
    try:
        pairs = tuple((float(low), float(high)) for low, high in value)
    except (TypeError, ValueError):
        pairs = ()
    if len(pairs) not in (1, channels) or any(not low < high for low, high in pairs):
        raise ConfigError(
            f'window must be None, "dicom", one (low, high) or one for each of {channels} channels, '
            f"low < high; found {value!r}"
        )
    return pairs


def to_eight_bits(raw: Raw, window: Window) -> Pixels:
    """[H, W, C] uint8. Without a window only depths with one fixed meaning are taken; else DataError.

    Under a window, places without data become 0. Transparency is laid over white, after the window.
    """
    spans: Any = None
    if isinstance(window, tuple):
        spans = window
    elif raw.pictured is not None:
        return 255 - raw.pictured if raw.inverted else raw.pictured
    elif raw.window is not None:
        spans = (raw.window,)
    if spans is not None:
        pixels = shown(raw.values, spans)
        pixels = 255 - pixels if raw.inverted else pixels
        if raw.nodata is not None and (missing := raw.missing) is not None:
            pixels[missing] = 0
    else:
        pixels = fixed(raw)
        pixels = 255 - pixels if raw.inverted else pixels
    return pixels if raw.alpha is None else over_white(pixels, raw.alpha)


def over_white(pixels_HWC: Pixels, alpha_HW: npt.NDArray[Any]) -> Pixels:
    if alpha_HW.dtype.kind == "f":
        alpha_HW = np.rint(np.clip(np.nan_to_num(alpha_HW), 0, 1) * 255)
    elif alpha_HW.dtype.itemsize > 1:
        alpha_HW = alpha_HW >> 8 * (
            alpha_HW.dtype.itemsize - 1
        )  # the high byte, as Pillow takes it
    alpha = alpha_HW[..., None].astype(np.uint8).astype(np.uint16)
    laid = pixels_HWC * alpha + 255 * (255 - alpha)
    return ((laid + 127) // 255).astype(np.uint8)


def shown(values: npt.NDArray[Any], spans: tuple[tuple[float, float], ...]) -> Pixels:
    """Each channel's (low, high) as 0..255, clipped; what is not a number (no data) becomes 0."""
    if len(spans) not in (1, values.shape[2]):
        raise DataError(f"has {values.shape[2]} channels, the window has {len(spans)}")
    low = np.array([span[0] for span in spans], dtype=np.float64)
    scale = 255 / np.array([span[1] - span[0] for span in spans], dtype=np.float64)
    pixels = np.empty(values.shape, dtype=np.uint8)
    rows = max(1, BLOCK_VALUES // max(1, values.shape[1] * values.shape[2]))
    for top in range(
        0, len(values), rows
    ):  # float64 of a whole picture would be eight times its size
        scaled = (values[top : top + rows].astype(np.float64) - low) * scale
        np.nan_to_num(scaled, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
        pixels[top : top + rows] = np.rint(np.clip(scaled, 0, 255))
    return pixels


def hidden(pixels_HWC: Pixels, spans: tuple[tuple[float, float], ...]) -> npt.NDArray[np.float64]:
    """Values that `shown` turns into exactly these pixels."""
    low = np.array([span[0] for span in spans], dtype=np.float64)
    width = np.array([span[1] - span[0] for span in spans], dtype=np.float64)
    return np.asarray(low + pixels_HWC / 255 * width, dtype=np.float64)


# Told to people who train and to those who only ask an endpoint.
TO_SHOW = (
    "Say what to show where an encoder is made (jepack train, import, inspect: --window p1,p99 or lo,hi); an "
    "endpoint keeps its encoder's window, and without one takes 8 bits, 16 unsigned bits, or floats in 0..1"
)


def fixed(raw: Raw) -> Pixels:
    """Depths whose range is known: 8 bits, 16 unsigned bits, floats in 0..1."""
    values = raw.values
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise DataError(
                f"floating-point image holds NaN or infinity, which a window shows as 0. {TO_SHOW}"
            )
        if raw.nodata is not None and raw.missing is not None:
            raise DataError(
                f"floating-point image holds places without data (nodata {raw.nodata:g}), which a window "
                f"shows as 0. {TO_SHOW}"
            )
        if values.min() < 0 or values.max() > 1:
            raise DataError(
                f"floating-point image spans {values.min():g}..{values.max():g}; only 0..1 has a "
                f"fixed meaning. {TO_SHOW}"
            )
        return np.round(values * 255).astype(np.uint8)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535 or values.dtype == np.int8:
        raise DataError(f"integer image spans {low}..{high}, need 0..65535. {TO_SHOW}")
    return (values.astype(np.uint32) >> raw.bits - 8).astype(np.uint8)


NARROW = 0.5  # share of a depth's range below which most of the 256 levels are lost
STRAY = 0.001  # share of the values at either end that may lie outside: hot and dead pixels


def narrow_span(raw: Raw) -> tuple[float, tuple[float, float] | None]:
    """The top of the values' depth, and their span where they use less than half of it, else None.

    16-bit integers keep their high byte without a window: 12-bit values become 16 levels of grey. 8 bits
    lose nothing; what has no fixed meaning is refused by `fixed`. The top is 0 for both. A few stray values
    at either end do not count.
    """
    kind = raw.values.dtype
    if raw.window is not None or kind.kind not in "uif" or kind.itemsize < 2:
        return 0.0, None
    known = raw.values[np.isfinite(raw.measured)]
    if not known.size:
        return 0.0, None
    low, high = float(known.min()), float(known.max())
    whole = 1.0 if kind.kind == "f" else 2.0**raw.bits - 1
    if low < 0 or high > whole:
        return 0.0, None
    if high - low >= NARROW * whole and (spare := int(STRAY * known.size)):
        ends = np.partition(known, (spare, known.size - 1 - spare))
        low, high = float(ends[spare]), float(ends[known.size - 1 - spare])
    return whole, (low, high) if low < high < low + NARROW * whole else None


def as_image(values: npt.NDArray[Any], channels: int | None = None) -> npt.NDArray[Any]:
    """[H, W], [H, W, C] or [C, H, W] -> [H, W, C]; DataError for anything else.

    `channels` settles which axis holds them. Otherwise it is the outer axis that is small beside the
    other two; AxisError when that is neither of them.
    """
    if values.dtype.kind not in "buif":
        raise DataError(f"an array of {values.dtype} is not an image")
    if values.ndim == 2:
        return values[..., None]
    if values.ndim != 3 or 0 in values.shape:
        raise DataError(f"an array of shape {values.shape} is not one image")
    return np.moveaxis(values, 0, 2) if channels_first(values.shape, channels) else values


def channels_first(shape: tuple[int, ...], channels: int | None) -> bool:
    """Whether the first of three axes holds the channels, else the last. Raises AxisError."""
    first, middle, last = shape
    if channels == LONGER:
        return first > last
    if channels is not None and channels in (first, last):
        return channels != last
    if min(first, last) <= FEW:
        return last > FEW
    for count, one, other in ((last, first, middle), (first, middle, last)):
        if 2 * count <= min(one, other) or (one == other and count < one):
            return (count, one) == (first, middle)
    raise AxisError(
        f"an array of shape {first} x {middle} x {last}: {last} channels of {middle} x {first} px, or "
        f"{first} channels of {last} x {middle} px? Training is told: --set channels={max(first, last)}; "
        "an endpoint takes as many as its encoder has"
    )
