"""By what the images of a map can be coloured: a table that other tabs may add to.

A colouring puts each image into one of a few categories; what is a number by nature comes in steps, so that
each has a place in the legend, a count, and can be chosen as a whole. One more: `register`, or
`register_family` for ways that one index has and another has not, when a module is imported (a tab's
`__init__.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app import cards
from app.belonging import FAR
from app.desk import Desk
from app.layout import Layout

NONE = "#a8a298"  # of images that are in no category
STEPS = ("#2c7fb8", "#7fcdbb", "#fdae61", "#b2182b")  # little to much, told apart by most eyes


@dataclass(frozen=True)
class Colouring:
    """A category for each image, in stored order."""

    codes_N: npt.NDArray[np.uint16]  # number of its category
    names: tuple[str, ...]  # of the categories
    colours: tuple[str, ...]
    said: str = ""  # what the categories mean, a sentence


# The labels of all rows in stored order, and the layout with neighbours and clusters where there is one.
Make = Callable[[Desk, Sequence[str | None], Layout | None], Colouring | None]


@dataclass(frozen=True)
class Source:
    """A way to colour. `make` returns None where the index has nothing for it."""

    title: str
    make: Make


SOURCES: dict[str, Source] = {}


def register(name: str, title: str, make: Make) -> None:
    """Offer a way to colour under a name of its own; the newest of one name counts."""
    SOURCES[name] = Source(title, make)


Family = Callable[[Desk], Mapping[str, Source]]  # by name
FAMILIES: list[Family] = []


def register_family(find: Family) -> None:
    """Offer the ways that `find` tells of a desk, all of them; it is asked often, so it must be quick."""
    FAMILIES.append(find)


def families(desk: Desk) -> dict[str, Source]:
    return {name: source for find in FAMILIES for name, source in find(desk).items()}


def source_of(desk: Desk, name: str) -> Source | None:
    return SOURCES.get(name) or families(desk).get(name)


def by_label(desk: Desk, labels: Sequence[str | None], layout: Layout | None) -> Colouring | None:
    """Names of folders, in the colours of all tabs."""
    known = list(desk.library.labels())
    if not known:
        return None
    number = {name: at for at, name in enumerate(known)}
    codes = [number.get(one, len(known)) if one is not None else len(known) for one in labels]
    colours = tuple(desk.colours.get(name, NONE) for name in known)
    return with_rest(np.array(codes), tuple(known), colours, "no label")


def by_cluster(desk: Desk, labels: Sequence[str | None], layout: Layout | None) -> Colouring | None:
    """Dense groups of the arrangement."""
    if layout is None or layout.clusters is None or not len(layout.clusters.medoid_C):
        return None
    of_N, count = layout.clusters.of_N, len(layout.clusters.medoid_C)
    names = tuple(f"Group {at + 1}" for at in range(count))
    codes = np.where(of_N < 0, count, of_N)
    colours = tuple(cards.colours_of(names).values())
    return with_rest(
        codes, names, colours, "in no group",
        "Groups are where images lie close together on the arrangement by neighbourhoods.",
    )  # fmt: skip


def by_unusualness(
    desk: Desk, labels: Sequence[str | None], layout: Layout | None
) -> Colouring | None:
    """How alone an image is: its nearest distance among the index's own, in steps, as Search tells it."""
    scale = desk.library.scale
    if layout is None or layout.nearest_N is None or scale is None:
        return None
    nearest = np.asarray(scale.nearest)
    at_least = len(nearest) - np.searchsorted(nearest, layout.nearest_N - 1e-7, side="left")
    rarity = (1 + at_least) / (1 + len(nearest))
    edges = (0.5, FAR, scale.unusual)
    codes = sum((rarity <= edge).astype(np.int64) for edge in edges)
    names = (
        "usual: half of all have no nearer neighbour",
        f"rarer: {FAR:.0%} to 50% lie as far from their nearest",
        f"only distant likenesses: at most {FAR:.0%}",
        f"nothing else looks like this: at most {100 * scale.unusual:.2g}%",
    )
    return Colouring(
        np.asarray(codes, np.uint16), names, STEPS,
        "How far an image lies from its nearest other, among all images of this index.",
    )  # fmt: skip


def with_rest(
    codes: npt.NDArray[np.int64],
    names: tuple[str, ...],
    colours: tuple[str, ...],
    rest: str,
    said: str = "",
) -> Colouring:
    """`rest` names the images whose code is beyond the names, where there are any."""
    if (codes >= len(names)).any():
        names, colours = (*names, rest), (*colours, NONE)
    return Colouring(codes.astype(np.uint16), names, colours, said)


register("label", "Label", by_label)
register("cluster", "Group", by_cluster)
register("unusual", "How unusual", by_unusualness)
