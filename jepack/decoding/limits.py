"""What one image may take, by its header, before anything is allocated; and the libraries of extras."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any

from jepack.errors import DataError, DependencyError, TooLargeError


@dataclass(frozen=True)
class Limits:
    """What one image may take."""

    bytes: int  # of the file
    pixels: int  # height x width
    values: int  # with channels


SERVED = Limits(64 * 1024 * 1024, 25_000_000, 256_000_000)  # of bytes that anyone may have sent
# Of a person's own files, in training, inspect and index. From 179 megapixels on, Pillow takes a picture for
# a bomb. What is above SERVED is read smaller, see oversize.py.
OWN = Limits(2 << 30, 178_956_970, 1_000_000_000)
MAX_PIXELS = SERVED.pixels


def need(module: str, extra: str) -> Any:
    """A library of an optional extra, or DependencyError saying how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.split(".")[0]
        raise DependencyError(
            f"these images need {library}, which is not installed here. "
            f"Install it: pip install 'jepack[{extra}]'"
        ) from error


def check_size(shape: tuple[int, ...], limits: Limits = SERVED) -> None:
    """Raises DataError for [H, W] or [H, W, C] without pixels, TooLargeError above the limits."""
    if 0 in shape:
        raise DataError(f"no pixels: shape {shape}")
    if shape[0] * shape[1] > limits.pixels or math.prod(shape) > limits.values:
        raise TooLargeError(
            f"{shape[1]} x {shape[0]} pixels in {shape[2] if len(shape) > 2 else 1} channels, the limit is "
            f"{limits.pixels / 1e6:.0f} megapixels and {limits.values / 1e6:.0f} million values"
        )
