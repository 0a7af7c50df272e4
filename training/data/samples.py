"""What a sample of the images tells of all of them: their channels, their window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jepack.decoding import Window, preprocess
from jepack.errors import AxisError, ConfigError, DataError, DependencyError
from jepack.sources import ImageFile


def some(files: Sequence[ImageFile], count: int) -> Sequence[ImageFile]:
    """About `count` files, evenly spread."""
    return files[:: max(1, len(files) // count)]


def guess_channels(files: Sequence[ImageFile], sample: int = 32) -> int:
    """1 when a sample of the images holds no colour, else 3, or what the files have. Reads up to `sample`."""
    for file in some(files, sample):
        try:
            values = preprocess.read_raw(file.read(), windowed=False).values
        except AxisError:  # nobody but the user can tell
            raise
        except (DataError, DependencyError):
            continue
        if values.shape[2] not in (1, 3):
            return int(values.shape[2])
        if values.shape[2] == 3:
            rgb = values.astype(np.float32)
            limit = 8 if values.dtype == np.uint8 else 0  # JPEG rounds grey by a few levels
            if np.abs(rgb - rgb[..., :1]).max() > limit:
                return 3
    return 1


def measure_window(
    files: Sequence[ImageFile], text: str | None, channels: int, sample: int = 64
) -> Window:
    """`p1,p99` (percentiles over a sample), `lo,hi`, `dicom` or None -> the window to store.

    Percentiles are taken per channel where the files have the encoder's channels, else over all.
    """
    if text is None or text == "dicom":
        return text
    words = text.replace(" ", "").split(",")
    try:
        low, high = (float(word.removeprefix("p")) for word in words)
    except ValueError:
        raise ConfigError(f"--window takes p1,p99 or lo,hi or dicom; found {text!r}") from None
    if not low < high:
        raise ConfigError(f"--window needs low < high, found {text!r}")
    if not words[0].startswith("p"):
        return ((low, high),)
    if not 0 <= low < high <= 100:
        raise ConfigError(f"--window: percentiles lie in 0..100, found {text!r}")
    samples: list[Any] = []
    reason = ""
    for file in some(files, sample):
        try:
            flat = preprocess.read_raw(file.read(), channels).measured
        except AxisError:
            raise
        except (DataError, DependencyError) as error:
            reason = reason or str(error)
            continue
        flat = flat.reshape(-1, flat.shape[2]).astype(np.float64)
        samples.append(flat[:: max(1, len(flat) // 4096)])
    if not samples:
        raise DataError(f"--window: none of the images looked at can be read: {reason}")
    if {part.shape[1] for part in samples} != {channels}:
        samples = [part.reshape(-1, 1) for part in samples]
    values = np.concatenate(samples)
    ends = np.nanpercentile(np.where(np.isfinite(values), values, np.nan), [low, high], axis=0)
    return tuple((float(a), float(b) if b > a else float(a) + 1) for a, b in ends.T)
