"""Which arrays of an HDF5 file or a zarr store are its images, and which are masks, features or smaller."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from jepack.names import examples
from jepack.sources.arrays import Array, arrays_of, levels, words

ASIDE = re.compile(
    r"(?:^|[_\W\d])(?:masks?|labels?|targets?|seg(?:mentations?)?|annotations?|gt|ground_?truth|weights?)"
    r"(?:$|[_\W\d])",
    re.IGNORECASE,
)  # what an array beside the images is called
NO_PICTURE = re.compile(
    r"(?:^|_)(?:features?|feats?|embeddings?|embeds?|vectors?|tokens?|latents?|logits?|scores?|spectr(?:a|um)|"
    r"coords?|coordinates?|keypoints?|b?box(?:es)?|y|tables?)(?:$|_)"
)  # what numbers about the images are called
CLOSE = 4  # bytes of one array over those of another: beyond that the larger one is taken unasked


def choose(root: Any, wanted: Sequence[str] = ()) -> tuple[list[Array], str]:
    """(the arrays of images, a sentence on what was left out or "").

    With `wanted`, the arrays of these names and those below them. Else, in this order: of an image in
    several sizes the largest (OME-Zarr's multiscales, or halved arrays of one group); of the rest those
    whose name does not say mask, label, features and the like, if any; of the rest the one most like pictures
    (see Array.likeness), then of most bytes, and those like it: as many axes, the same type and channels,
    and either the same size of an image or the same name but for numbers and group. Raises ValueError when
    there is none, and where several may be meant.
    """
    scaled, smaller, aside = levels(root)
    every = sorted(arrays_of(root, scaled), key=lambda array: array.name)
    if not every:
        raise ValueError("holds no numeric array of 2 to 4 axes")
    if wanted:
        taken = [array for array in every if any(is_below(array.name, name) for name in wanted)]
        if not taken:
            raise ValueError(
                f"holds no array {' or '.join(wanted)}; there are "
                f"{examples((array.name for array in every), 12)}"
            )
        return taken, ""
    likely = [array for array in every if array.name not in smaller]
    likely = [array for array in likely if array.name not in halves(likely)] or likely
    likely = [
        array for array in likely if not any(is_below(array.name, name) for name in aside)
    ] or likely
    likely = [array for array in likely if not named_aside(array.name)] or likely
    likely = [array for array in likely if not NO_PICTURE.search(words(array.name))] or likely
    first = leader(likely, scaled)
    taken = [array for array in likely if alike(array, first)]
    left = [array.name for array in every if array not in taken]
    told = ""
    if left:
        told = (
            f"the images are {examples(array.name for array in taken)}; left out: {examples(left)}. "
            f"Choose yourself: DATA#{left[0]} (several parted by commas)"
        )
    return taken, told


def leader(arrays: Sequence[Array], scaled: dict[str, str]) -> Array:
    """The array most like pictures; of equals the largest, unless others are as likely. Raises ValueError."""
    most = max(array.likeness for array in arrays)
    equals = [array for array in arrays if array.likeness == most]
    first = max(equals, key=lambda array: (array.bytes, array.name in scaled))
    # Of the same height and width the deeper one is the picture, and the other most likely a mask of it.
    others = [array for array in equals if not alike(array, first) and not covers(first, array)]
    if first.depth == "number" and (written := [a for a in others if a.depth == "picture"]):
        return leader(written, scaled)
    close = [
        array
        for array in others
        if array.depth == first.depth and array.bytes * CLOSE > first.bytes
    ]
    if close:
        one, other = first, max(close, key=lambda array: array.bytes)
        raise ValueError(
            f"either of its arrays {one.told} and {other.told} may be the images. Choose: DATA#{one.name} or "
            f"DATA#{other.name}, or both: DATA#{one.name},{other.name}"
        )
    return first


def covers(one: Array, other: Array) -> bool:
    """Whether both have as many images of the same height and width."""
    return (
        one.shape[:3] == other.shape[:3]
        if one.count is not None
        else one.image[:2] == other.image[:2]
    )


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
    return any(ASIDE.search(part) for part in re.sub(r"([a-z])([A-Z])", r"\1_\2", name).split("/"))


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
