"""Which arrays of an HDF5 file or a zarr store are its images, and which are masks, labels or smaller."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jepack.names import examples

ASIDE = re.compile(
    r"(?:^|[_\W\d])(?:masks?|labels?|targets?|seg(?:mentations?)?|annotations?|gt|ground_?truth|weights?)"
    r"(?:$|[_\W\d])",
    re.IGNORECASE,
)  # what an array beside the images is called
COLOURS = (1, 3, 4)  # a last axis of this length is channels


@dataclass(frozen=True)
class Array:
    """A numeric array of 2 to 4 axes."""

    name: str  # /group/x; "" where the store is the array itself
    shape: tuple[int, ...]
    dtype: str

    @property
    def count(self) -> int | None:
        """Images along its first axis; None where the array is one image, [H, W] or [H, W, 1, 3 or 4]."""
        one = len(self.shape) == 2 or (len(self.shape) == 3 and self.shape[2] in COLOURS)
        return None if one else self.shape[0]

    @property
    def image(self) -> tuple[int, ...]:
        """The shape of one of its images."""
        return self.shape if self.count is None else self.shape[1:]

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


def choose(root: Any, wanted: Sequence[str] = ()) -> tuple[dict[str, int | None], str]:
    """({array: its number of images, None = it is one}, a sentence on what was left out or "").

    With `wanted`, the arrays of these names and those below them. Else, in this order: of an image in
    several sizes the largest (OME-Zarr's multiscales, or halved arrays of one group); of the rest those
    whose name does not say mask, label and the like, if any; of the rest the one of most bytes, and those
    like it: as many axes, the same type and channels, and either the same size of an image or the same name
    but for numbers and group. Raises ValueError when there is none.
    """
    every = sorted(arrays_of(root), key=lambda array: array.name)
    if not every:
        raise ValueError("holds no numeric array of 2 to 4 axes")
    if wanted:
        taken = [array for array in every if any(is_below(array.name, name) for name in wanted)]
        if not taken:
            raise ValueError(
                f"holds no array {' or '.join(wanted)}; there are "
                f"{examples((array.name for array in every), 12)}"
            )
        return {array.name: array.count for array in taken}, ""
    scaled, smaller = levels(root)
    found = [array for array in every if array.name not in smaller]
    found = [array for array in found if array.name not in halves(found)] or found
    found = [array for array in found if not named_aside(array.name)] or found
    largest = max(found, key=lambda array: (array.bytes, array.name in scaled))
    taken = [array for array in found if alike(array, largest)]
    left = [array.name for array in every if array not in taken]
    told = ""
    if left:
        told = (
            f"the images are {examples(array.name for array in taken)}; left out: {examples(left)}. "
            f"Choose yourself: DATA#{left[0]} (several parted by commas)"
        )
    return {array.name: array.count for array in taken}, told


def alike(one: Array, largest: Array) -> bool:
    if len(one.image) != len(largest.image) or one.dtype != largest.dtype:
        return False
    if (one.count is None) != (largest.count is None):
        return False
    if len(one.image) == 3 and one.image[2] != largest.image[2]:
        return False
    return one.image == largest.image or one.last == largest.last


def is_below(name: str, wanted: str) -> bool:
    wanted = wanted.rstrip("/")
    return name == wanted or name.startswith(f"{wanted}/")


def named_aside(name: str) -> bool:
    return any(ASIDE.search(part) for part in name.split("/"))


def arrays_of(root: Any) -> Iterator[Array]:
    for name, node in nodes(root):
        if not hasattr(node, "dtype"):
            continue
        shape: tuple[int, ...] = tuple(int(length) for length in node.shape)
        kind = getattr(node.dtype, "kind", "O")
        if kind in "buif" and 2 <= len(shape) <= 4 and 0 not in shape:
            yield Array(name, shape, str(node.dtype))


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


def levels(root: Any) -> tuple[set[str], set[str]]:
    """Names of (full images, their smaller levels), as OME-Zarr's `multiscales` say."""
    full: set[str] = set()
    smaller: set[str] = set()
    for name, node in nodes(root):
        if hasattr(node, "dtype"):
            continue
        ome = node.attrs.get("ome")  # from version 0.5 on
        told = (ome if isinstance(ome, dict) else node.attrs).get("multiscales")
        for scale in told if isinstance(told, (list, tuple)) else ():
            paths = [f"{name}/{level['path']}" for level in scale["datasets"]]
            full |= set(paths[:1])
            smaller |= set(paths[1:])
    return full, smaller


def halves(arrays: Sequence[Array]) -> set[str]:
    """Smaller levels of pictures kept in several sizes without a word about it.

    A group counts as one when all its arrays, sorted by size, are each half of the one before, in two axes at
    least and in every axis that changes.
    """
    groups: dict[str, list[Array]] = {}
    for array in arrays:
        groups.setdefault(array.group, []).append(array)
    smaller: set[str] = set()
    for members in groups.values():
        members = sorted(members, key=lambda array: -math.prod(array.shape))
        pairs = list(zip(members, members[1:], strict=False))
        if pairs and all(is_half(one, other) for one, other in pairs):
            smaller |= {array.name for array in members[1:]}
    return smaller


def is_half(one: Array, other: Array) -> bool:
    if len(one.shape) != len(other.shape) or one.dtype != other.dtype:
        return False
    changed = [(a, b) for a, b in zip(one.shape, other.shape, strict=True) if a != b]
    return len(changed) >= 2 and all(b in (a // 2, -(-a // 2)) for a, b in changed)
