"""Values of any depth -> the 8 bits an encoder sees. NumPy only; training and serving both call it.

H, W, C name height, width, channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jepack.errors import ConfigError, DataError

Pixels = npt.NDArray[np.uint8]
# The span shown as 0..255: one (low, high) for all channels or one per channel, in the file's own
# units; "dicom" = the file's own window where it has one; None = 8 bits as they are, 16 by their high byte.
Window = str | tuple[tuple[float, float], ...] | None


@dataclass(frozen=True)
class Raw:
    """An image as its file holds it."""

    values: npt.NDArray[Any]  # [H, W, C], any integer, float or bool type
    window: tuple[float, float] | None = None  # the file's own, in the units of `values`
    inverted: bool = False  # low values are bright (DICOM's MONOCHROME1)
    pictured: Pixels | None = None  # as the file itself shows them, where no window can say it


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
    """[H, W, C] uint8. Without a window only depths with one fixed meaning are taken; else DataError."""
    values = raw.values
    spans: Any = None
    if isinstance(window, tuple):
        spans = window
    elif raw.pictured is not None:
        return 255 - raw.pictured if raw.inverted else raw.pictured
    elif raw.window is not None:
        spans = (raw.window,)
    pixels = shown(values, spans) if spans is not None else fixed(values)
    return 255 - pixels if raw.inverted else pixels


def shown(values: npt.NDArray[Any], spans: tuple[tuple[float, float], ...]) -> Pixels:
    """Each channel's (low, high) as 0..255, clipped; what is not a number (no data) becomes 0."""
    if len(spans) not in (1, values.shape[2]):
        raise DataError(f"has {values.shape[2]} channels, the window has {len(spans)}")
    low = np.array([span[0] for span in spans], dtype=np.float64)
    scale = 255 / np.array([span[1] - span[0] for span in spans], dtype=np.float64)
    scaled = (values.astype(np.float64) - low) * scale
    np.nan_to_num(scaled, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def hidden(pixels_HWC: Pixels, spans: tuple[tuple[float, float], ...]) -> npt.NDArray[np.float64]:
    """Values that `shown` turns into exactly these pixels."""
    low = np.array([span[0] for span in spans], dtype=np.float64)
    width = np.array([span[1] - span[0] for span in spans], dtype=np.float64)
    return np.asarray(low + pixels_HWC / 255 * width, dtype=np.float64)


def fixed(values: npt.NDArray[Any]) -> Pixels:
    """Depths whose range is known: 8 bits, 16 unsigned bits, floats in 0..1."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise DataError(
                "floating-point image holds NaN or infinity; with --window such pixels become 0"
            )
        if values.min() < 0 or values.max() > 1:
            raise DataError(
                f"floating-point image spans {values.min():g}..{values.max():g}; only 0..1 has a "
                "fixed meaning. Say what to show: --window p1,p99 or lo,hi"
            )
        return np.round(values * 255).astype(np.uint8)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535 or values.dtype == np.int8:
        raise DataError(
            f"integer image spans {low}..{high}, need 0..65535. Say what to show: --window p1,p99 or lo,hi"
        )
    return (values.astype(np.uint32) >> 8).astype(np.uint8)


def as_image(values: npt.NDArray[Any], channels: int | None = None) -> npt.NDArray[Any]:
    """[H, W], [H, W, C] or [C, H, W] -> [H, W, C]; DataError for anything else.

    `channels` settles which axis holds them; otherwise the shorter outer one does.
    """
    if values.dtype.kind not in "buif":
        raise DataError(f"an array of {values.dtype} is not an image")
    if values.ndim == 2:
        return values[..., None]
    if values.ndim != 3 or 0 in values.shape:
        raise DataError(f"an array of shape {values.shape} is not one image")
    first, last = values.shape[0], values.shape[2]
    channels_first = first < last
    if channels is not None and channels in (first, last) and first != last:
        channels_first = first == channels
    return np.moveaxis(values, 0, 2) if channels_first else values
