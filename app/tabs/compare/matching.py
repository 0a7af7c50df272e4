"""Which image of one index is which of another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from app.store import VectorStore


@dataclass(frozen=True)
class Matching:
    """Images that all of the indexes hold. The first index's id names an image."""

    ids: list[dict[str, str]]  # of each index: {id in the first: its own id}
    counts: list[int]  # images of each index
    labels: dict[
        str, str
    ]  # of matched images, by the first's id; the first index that has one tells

    @property
    def names(self) -> list[str]:
        return list(self.ids[0])

    @property
    def share(self) -> float:
        """Of the images of the largest index that are in all of them, 0..1."""
        return len(self.ids[0]) / max(1, *self.counts)


def match(stores: Sequence[VectorStore]) -> Matching:
    """By id; where ids differ (another folder above), by a file name that each index has once."""
    every = [{row.id: row.label for part in store.scan() for row in part} for store in stores]
    first = every[0]
    pairs = [{name: name for name in first}, *(pairs_of(list(first), list(o)) for o in every[1:])]
    common = [name for name in first if all(name in one for one in pairs)]
    ids = [{name: one[name] for name in common} for one in pairs]
    labels = {}
    for name in common:
        told = [own[one[name]] for own, one in zip(every, ids, strict=True)]
        label = next((label for label in told if label is not None), None)
        if label is not None:
            labels[name] = label
    return Matching(ids, [len(one) for one in every], labels)


def pairs_of(first: Sequence[str], other: Sequence[str]) -> dict[str, str]:
    """{id of the first: id of the other}."""
    there = set(other)
    pairs = {name: name for name in first if name in there}
    left, free = [n for n in first if n not in pairs], there - set(pairs)
    by_name = once(free)
    return pairs | {name: by_name[short] for short, name in once(left).items() if short in by_name}


def once(names: Sequence[str] | set[str]) -> dict[str, str]:
    """{file name: id} of those whose file name is there once."""
    counts = Counter(PurePosixPath(name).name for name in names)
    return {short: name for name in names if counts[short := PurePosixPath(name).name] == 1}
