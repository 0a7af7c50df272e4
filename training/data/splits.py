"""Splits that do not leak: whole groups stay together, and copies across a split are found.

N images. A group is what must not be on both sides: a patient, a slide, a scene, a block of the map.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jepack.errors import DataError
from jepack.names import examples
from jepack.sources import ImageFile, split_of
from training.data.images import Ints

TOGETHER = ("page", "image", "frame", "planes")  # parts that show one thing, or one after the other
MOST_HELD_OUT = 2048
MOST_IN_ONE = 0.5  # share of the images that copies may join to one group
TRIES = 50


@dataclass(frozen=True)
class Split:
    """Which images are learnt from, and which are kept out to judge what was learnt."""

    train: Ints
    held_out: Ints


def split(count: int, validation_fraction: float, seed: int) -> tuple[Any, Any]:
    """Shuffled (training, validation) indices; validation is at most 2,048 images."""
    order = np.random.default_rng([seed, 77]).permutation(count)
    held_out = min(MOST_HELD_OUT, max(1, round(count * validation_fraction))) if count > 1 else 0
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def training_split(
    files: Sequence[ImageFile],
    validation_fraction: float,
    seed: int,
    group_by: str | None = None,
    contents: Sequence[str] | None = None,
) -> tuple[Any, Any]:
    """(training, validation) indices: by the data's own split if it has one, else by group.

    Images of the split's val and test are both kept out of training. A group is what shares a value of the
    column `group_by`, and the pages, images and frames of one file: they show one thing. With `contents`,
    a name of each image's bytes, copies are on one side too; where that would join most images to one group,
    copies of training images are on neither side instead.
    """
    told = own_split(files)
    if told is not None:
        out = (told == "val") | (told == "test")
        train, held = np.flatnonzero(~out), np.flatnonzero(out)
        if group_by:
            check_groups(column(files, group_by), train, held, group_by)
        return train, held
    named = names_of(files, group_by)
    copies: list[Sequence[str]] = (
        [contents] if contents is not None and len(set(contents)) < len(files) else []
    )
    if not named and not copies:
        return split(len(files), validation_fraction, seed)
    groups = joined([*named, *copies])
    if named and copies and most_in_one(groups) > max(MOST_IN_ONE, most_in_one(joined(named))):
        # A blank page that is in every file would make one group of them all.
        train, held = grouped_split(joined(named), validation_fraction, seed)
        content = np.asarray(copies[0])
        return train, held[~np.isin(content[held], content[train])]
    return grouped_split(groups, validation_fraction, seed)


def names_of(files: Sequence[ImageFile], group_by: str | None) -> list[Sequence[str]]:
    """Lists of a name for each image: images that one of them names alike stay together."""
    named: list[Sequence[str]] = [column(files, group_by)] if group_by else []
    return named + ([names] if (names := one_thing(files)) is not None else [])


def groups_of(files: Sequence[ImageFile], group_by: str | None) -> Sequence[str] | None:
    """The group of each image; None where each stands for itself."""
    named = names_of(files, group_by)
    return joined(named) if named else None


def joined(named: Sequence[Sequence[str]]) -> Sequence[str]:
    """One name for each image: equal where any of the lists names two images alike, or others in between."""
    if len(named) == 1:
        return named[0]
    first: dict[tuple[int, str], int] = {}  # the image that first had a name
    above = list(range(len(named[0])))

    def root(image: int) -> int:
        while above[image] != image:
            above[image] = above[above[image]]
            image = above[image]
        return image

    for place, names in enumerate(named):
        for image, name in enumerate(names):
            one, other = root(image), root(first.setdefault((place, name), image))
            above[max(one, other)] = min(one, other)
    return [named[0][root(image)] for image in range(len(above))]


def most_in_one(groups: Sequence[str]) -> float:
    """The share of the largest group."""
    return max(Counter(groups).values()) / len(groups)


def one_thing(files: Sequence[ImageFile]) -> list[str] | None:
    """The file of each image, where pages, images or frames of one file lie beside other files; else None."""
    names = [str(file.path) for file in files]
    held = any((file.part or "").partition("=")[0] in TOGETHER for file in files)
    return names if held and len(set(names)) > 1 else None


def own_split(files: Sequence[ImageFile]) -> Any:
    """[N] train, val, test or "" of each image, by its folder or the manifest's column `split`.

    None where that parts nothing: no image is held out, or all are.
    """
    told = np.array([split_of(file.columns.get("split", "")) for file in files])
    held = (told == "val") | (told == "test")
    return told if held.any() and not held.all() else None


def column(files: Sequence[ImageFile], name: str) -> list[str]:
    """A manifest column, one value for each image. Raises DataError when images lack it."""
    if name == "label":
        return [file.label or "" for file in files]
    values = [file.columns.get(name, "") for file in files]
    missing = sum(not value for value in values)
    if missing:
        known = sorted({key for file in files for key in file.columns})
        raise DataError(
            f"{missing} of {len(files)} images have no {name!r}; the manifest's columns are "
            f"{', '.join(known) or 'none (is there a manifest.csv?)'}"
        )
    return values


def grouped_split(groups: Sequence[str], test_fraction: float, seed: int) -> tuple[Ints, Ints]:
    """(training, test) indices that share no group; the test part is as near to its share as groups allow."""
    names, of = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        raise DataError(f"one group ({names[0]!r}) holds all images; a split needs at least two")
    counts = np.bincount(of)
    wanted = min(MOST_HELD_OUT, len(groups) * test_fraction)
    best: tuple[float, Any] = (np.inf, None)
    generator = np.random.default_rng([seed, 78])
    for _ in range(TRIES if len(names) < 50 else 1):  # few, uneven groups: look for a good draw
        order = generator.permutation(len(names))
        total = np.cumsum(counts[order])
        take = int(np.argmin(np.abs(total[:-1] - wanted))) + 1
        off = abs(float(total[take - 1]) - wanted)
        if off < best[0]:
            best = (off, order[:take])
    test = np.isin(of, best[1])
    return np.flatnonzero(~test), np.flatnonzero(test)


def check_groups(groups: Sequence[str], train: Ints, test: Ints, name: str) -> None:
    both = {groups[i] for i in train} & {groups[i] for i in test}
    if both:
        raise DataError(
            f"{len(both)} values of {name!r} lie on both sides of the split: {examples(sorted(both), 5)}"
        )
