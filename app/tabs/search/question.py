"""What a search asks, and how the page's address says it, so that Reload, Back and a link ask the same.

`#like=cat/a.png&like=cat/b.png;0.1,0.2,0.5,0.6&unlike=dog/c.png&only=year;from;2019&k=20`: images of the
index to be near to and far from, parts of them (left, top, right, bottom as shares), conditions, and the
number of neighbours. `by=squares` lets the squares along one image's long side ask, each alone.
`own=` in the place of `like=`, and `unown=` of `unlike=`, is an image that a visitor
brought; it is known by its name for as long as their page is open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

import numpy as np

from app.originals import Box
from app.store import Condition, Vectors
from jepack.errors import DataError

MOST_EXAMPLES = 16  # on both sides together
LESS = 0.5  # how much "less like" counts beside "more like"
HOW = (
    "Searched with the mean of the “more like” directions, minus half the mean of the “less like” ones "
    "(each of length one)."
)
KEYS = {  # (side, whether one's own): the word of the address
    ("like", False): "like",
    ("like", True): "own",
    ("unlike", False): "unlike",
    ("unlike", True): "unown",
}
BY_SQUARES = "by=squares"
LABEL = "label"  # a column that every index has; `only=label;is;`, without a value, means the query's own


@dataclass(frozen=True)
class Example:
    """An image, or a part of it, to be near to or far from."""

    name: str  # id in the index, or the file name of an image of one's own
    own: bool = False
    box: Box | None = None

    def __str__(self) -> str:
        where = "" if self.box is None else ";" + ",".join(f"{share:.4g}" for share in self.box)
        return quote(self.name, safe="/") + where


@dataclass(frozen=True)
class Question:
    like: tuple[Example, ...] = ()
    unlike: tuple[Example, ...] = ()
    only: tuple[Condition, ...] = ()
    k: int | None = None  # None: as the slider stands
    squares: bool = False  # whether those along the image's long side ask, each alone

    @property
    def examples(self) -> tuple[Example, ...]:
        return self.like + self.unlike

    @property
    def by_squares(self) -> bool:
        """Of one whole image alone: several ask with their mean."""
        return self.squares and len(self.examples) == 1 and self.examples[0].box is None

    @property
    def address(self) -> str:
        """The part of the page's address from # on."""
        words = [
            f"{KEYS[side, one.own]}={one}"
            for side in ("like", "unlike")
            for one in getattr(self, side)
        ]
        words += [
            "only=" + ";".join(quote(word, safe="") for word in (one.column, one.sign, one.value))
            for one in self.only
        ]
        if self.by_squares:
            words.append(BY_SQUARES)
        if self.k is not None:
            words.append(f"k={self.k}")
        return "#" + "&".join(words)

    def without(self, example: Example) -> Question:
        return replace(
            self,
            like=tuple(one for one in self.like if one != example),
            unlike=tuple(one for one in self.unlike if one != example),
        )

    def also(self, example: Example, side: str) -> Question:
        """With one more example on a side; on the other it then is no longer."""
        rest = self.without(example)
        if side == "like":
            return replace(rest, like=(*rest.like, example))
        return replace(rest, unlike=(*rest.unlike, example))


def parse(address: str) -> Question:
    """Of any text; what means nothing is passed over.

    Raises DataError where too much is asked, or too little.
    """
    sides: dict[str, list[Example]] = {"like": [], "unlike": []}
    only, k, squares = list[Condition](), None, False
    for key, value in words_of(address):
        for (side, own), name in KEYS.items():
            if key == name:
                sides[side].append(example_of(value, own))
        if key == "only" and value.count(";") == 2:
            column, sign, text = map(unquote, value.split(";"))
            only.append(Condition(column, sign, text))
        squares |= f"{key}={value}" == BY_SQUARES
        if key == "k" and value.isdecimal() and len(value) < 6:
            k = int(value)
    found = Question(tuple(sides["like"]), tuple(sides["unlike"]), tuple(only), k, squares)
    if len(found.examples) > MOST_EXAMPLES:
        raise DataError(
            f"{len(found.examples)} images ask at once, up to {MOST_EXAMPLES} can. Take some away."
        )
    if found.unlike and not found.like:
        raise DataError(
            "Nothing is asked for yet but what to avoid. Add an image with “more like”."
        )
    return found


def words_of(address: str) -> Iterator[tuple[str, str]]:
    for word in address.lstrip("#").split("&"):
        key, _, value = word.partition("=")
        yield key, value


def example_of(text: str, own: bool) -> Example:
    name, _, where = text.partition(";")
    return Example(unquote(name), own, box_of(where) if where else None)


def box_of(text: str) -> Box:
    """Raises DataError for what is no part of an image."""
    try:
        left, top, right, bottom = (float(word) for word in text.split(","))
    except ValueError:
        left = top = right = bottom = 0.0
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise DataError(
            f"{text!r} is no part of an image: need left,top,right,bottom between 0 and 1, "
            "like 0.1,0.2,0.5,0.6"
        )
    return left, top, right, bottom


def direction(like_ND: Vectors, unlike_MD: Vectors) -> Vectors:
    """[D]: the mean of the unit vectors of `like`, minus LESS times that of `unlike`.

    One alone is itself. Raises DataError where nothing is left of them. After Rocchio, 1971.
    """
    if len(like_ND) == 1 and not len(unlike_MD):
        return like_ND[0]
    wanted = units(like_ND).mean(axis=0)
    if len(unlike_MD):
        wanted = wanted - LESS * units(unlike_MD).mean(axis=0)
    if np.linalg.norm(wanted) < 1e-6:
        raise DataError("These images cancel each other out. Take one away.")
    return np.asarray(wanted, np.float32)


def units(rows_ND: Vectors) -> Vectors:
    return np.asarray(rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True), np.float32)
