"""The numeric arrays of an HDF5 file or a zarr store, and how much each looks like pictures."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

PICTURE = re.compile(
    r"(?:^|_)(?:images?|imgs?|pictures?|photos?|pixels?|frames?|scans?|tiles?|rgb|raw|data|x)(?:$|_)"
)
COLOURS = (1, 3, 4)  # a last axis of this length is channels
LONGEST = 16  # longer side over the shorter one: beyond that it is a table or a series, no picture


@dataclass(frozen=True)
class Array:
    """A numeric array of 2 to 4 axes, or of those that OME-Zarr tells."""

    name: str  # /group/x; "" where the store is the array itself
    shape: tuple[int, ...]
    dtype: str
    axes: str = ""  # OME-Zarr's, such as tczyx, where they name channels; "" = not told

    @property
    def count(self) -> int | None:
        """Images along its first axis; None where the array is one image, [H, W] or [H, W, 1, 3 or 4]."""
        if self.axes:
            others = [n for n, axis in zip(self.shape, self.axes, strict=True) if axis not in "cyx"]
            return math.prod(others) if others else None
        one = len(self.shape) == 2 or (len(self.shape) == 3 and self.shape[2] in COLOURS)
        return None if one else self.shape[0]

    @property
    def image(self) -> tuple[int, ...]:
        """The shape of one of its images."""
        if self.axes:
            return tuple(self.shape[self.axes.index(axis)] for axis in "yxc")
        return self.shape if self.count is None else self.shape[1:]

    @property
    def part(self) -> str:
        """What names its images in a part (see parts.py), all but their number."""
        return f"planes={self.name}@{self.axes}" if self.axes else f"slice={self.name}"

    @property
    def likeness(self) -> int:
        """How much it looks like pictures, by its name, its axes and its type; compared, never measured."""
        named = bool(PICTURE.search(words(self.name)))
        if self.axes:
            return named + 4
        image = self.image
        channels = image[-1] if len(image) == 3 and image[-1] in COLOURS else 0
        if not channels and len(image) == 3 and image[0] in COLOURS:
            channels, image = image[0], image[1:]
        elif len(image) == 3 and not channels and image[2] > min(image[:2]):
            return named  # more channels than pixels a side: maps of features
        short, long = sorted(image[:2])
        if long > LONGEST * short or short < 2 or np.dtype(self.dtype) == np.bool_:
            return named
        if len(self.shape) == 2:  # rows of numbers are more often a table than a picture
            return named + (self.depth == "picture")
        # Three numbers for each of many things (points, angles) have the shape of one coloured picture.
        colour = channels > 1 and (self.count is not None or self.depth == "picture")
        return named + 2 + colour

    @property
    def depth(self) -> str:
        """Types that cameras and scanners write, and those that come out of a computation."""
        return "picture" if np.dtype(self.dtype).str[1:] in ("u1", "u2", "i2") else "number"

    @property
    def told(self) -> str:
        return f"{self.name or '/'} ({' x '.join(map(str, self.shape))} {self.dtype})"

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def group(self) -> str:
        return self.name.rpartition("/")[0]

    @property
    def last(self) -> str:
        """Its own name, numbers aside: img_07 and img_12 are called alike."""
        return re.sub(r"\d+", "#", self.name.rpartition("/")[2])


def words(name: str) -> str:
    """TissueMask2/x -> tissue_mask_x"""
    return re.sub(r"[\W\d_]+", "_", re.sub(r"([a-z])([A-Z])", r"\1_\2", name)).lower()


def arrays_of(root: Any, scaled: dict[str, str]) -> Iterator[Array]:
    """`scaled`: axes that OME-Zarr tells of some of them."""
    for name, node in nodes(root):
        if not hasattr(node, "dtype"):
            continue
        shape: tuple[int, ...] = tuple(int(length) for length in node.shape)
        axes = scaled.get(name, "")
        axes = axes if len(axes) == len(shape) and {"c", "y", "x"} <= set(axes) else ""
        kind = getattr(node.dtype, "kind", "O")
        if kind in "buif" and (2 <= len(shape) <= 4 or axes) and 0 not in shape:
            yield Array(name, shape, str(node.dtype), axes)


def nodes(root: Any) -> Iterator[tuple[str, Any]]:
    """Every group and array by name; one that has several names (links of HDF5) once, dead links never."""
    waiting: list[tuple[str, Any]] = [("", root)]
    seen = set()
    while waiting:
        name, node = waiting.pop()
        identity = getattr(node, "id", None)
        if identity is not None:
            if identity in seen:
                continue
            seen.add(identity)
        yield name, node
        if not hasattr(node, "dtype"):
            inner = [(f"{name}/{key}", node.get(key)) for key in node]
            waiting += [(key, child) for key, child in reversed(inner) if child is not None]


def levels(root: Any) -> tuple[dict[str, str], set[str], set[str]]:
    """({full image: its axes}, names of smaller levels, names of groups that are labels), says OME-Zarr."""
    full: dict[str, str] = {}
    smaller: set[str] = set()
    labels: set[str] = set()
    for name, node in nodes(root):
        if hasattr(node, "dtype"):
            continue
        ome = node.attrs.get("ome")  # from version 0.5 on
        about = ome if isinstance(ome, dict) else node.attrs
        if about.get("image-label") is not None:
            labels.add(name)
        told = about.get("multiscales")
        for scale in told if isinstance(told, (list, tuple)) else ():
            paths = [f"{name}/{level['path']}" for level in scale["datasets"]]
            axes = [
                one["name"] if isinstance(one, dict) else one for one in scale.get("axes") or ()
            ]
            short = "".join(axes) if all(len(str(axis)) == 1 for axis in axes) else ""
            full |= dict.fromkeys(paths[:1], short)
            smaller |= set(paths[1:])
    return full, smaller, labels
