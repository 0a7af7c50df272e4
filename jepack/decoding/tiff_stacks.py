"""Images of a TIFF whose channels lie on pages of their own, as the axes of ImageJ and OME tell."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jepack.decoding.limits import Limits, check_size, need
from jepack.decoding.tiff_tags import Tags, Values
from jepack.errors import DataError, TooLargeError


def channels_last(values: Values, axes: str) -> Values:
    """Axes with Y and X, any others -> [H, W, C]."""
    order = [axes.index("Y"), axes.index("X")]
    order += [place for place in range(values.ndim) if place not in order]
    values = values.transpose(order)
    return values.reshape(*values.shape[:2], -1)


def stacked(file: Any) -> Any:
    """The first series, where its axes (ImageJ, OME) say that channels lie on pages; else None."""
    series = file.series[0]
    axes = series.axes
    if "C" not in axes or not {"X", "Y"} <= set(axes) or series.shape[axes.index("C")] < 2:
        return None
    return series


def images_in(series: Any) -> int:
    """How many images it holds: all axes but channels, rows, columns and samples."""
    return math.prod(
        n for n, axis in zip(series.shape, series.axes, strict=True) if axis not in "CYXS"
    )


def stacked_images(path: Path) -> int:
    """How many images of several pages each a file holds; 0 where its pages are the images."""
    with (
        suppress(OSError, SyntaxError),  # a layout that Pillow does not know
        Image.open(path, formats=("TIFF",)) as opened,
    ):
        if not Tags.read(getattr(opened, "tag_v2", {}).get).told_axes:
            return 0
    with need("tifffile", "tiff").TiffFile(path) as file:
        series = stacked(file)
        return 0 if series is None else images_in(series)


def stack_of(series: Any, image: int, limits: Limits) -> Values:
    """[H, W, C] of one image of a series; only its own planes are read."""
    axes, shape = series.axes, series.shape
    sizes = dict(zip(axes, shape, strict=True))
    if image >= images_in(series):
        raise DataError(f"tiff: has no image {image}")
    check_size((sizes["Y"], sizes["X"], sizes["C"] * sizes.get("S", 1)), limits)
    outer = [axis for axis in axes if axis not in "YXS"]
    others = [axis for axis in outer if axis != "C"]
    place = dict(
        zip(others, np.unravel_index(image, [sizes[axis] for axis in others]), strict=True)
    )
    pages = list(series.pages)
    if len(pages) == math.prod(sizes[axis] for axis in outer) and None not in pages:
        grid = np.arange(len(pages)).reshape([sizes[axis] for axis in outer])
        chosen = grid[tuple(place.get(axis, slice(None)) for axis in outer)]
        values = np.stack([pages[int(number)].asarray() for number in chosen.ravel()])
        return channels_last(values, "C" + pages[0].axes)
    if math.prod(shape) > limits.values:
        raise TooLargeError(f"tiff: {math.prod(shape) / 1e6:,.0f} million values in one piece")
    whole = series.asarray()[tuple(int(place[a]) if a in place else slice(None) for a in axes)]
    return channels_last(whole, "".join(axis for axis in axes if axis not in place))
