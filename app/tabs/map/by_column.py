"""The map's colours by the columns that a manifest brought: a colour for each value, or for steps of many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np

from app import cards
from app.colouring import NONE, Colouring, Source, with_rest
from app.columns import MOST_VALUES, Column, Value
from app.desk import Desk
from app.layout import Layout

STEPS = 6  # of a number or date of more values than MOST_APART
MOST_APART = 8  # values of a number or date that each have a colour
# From little to much, told apart by colour-blind eyes: viridis (CC0), whose yellow is faint on white.
RAMP = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [236, 184, 0]])
NO_VALUE = "no value"


def columns(desk: Desk) -> dict[str, Source]:
    """A way to colour for each column of the index."""
    return {
        f"column:{one.name}": Source(f"Column {one.name}", partial(by_column, one))
        for one in desk.library.store.info.columns
    }


def by_column(
    column: Column, desk: Desk, labels: Sequence[str | None], layout: Layout | None
) -> Colouring | None:
    values = desk.library.store.column(column.name)
    return of_categories(values) if column.kind == "category" else of_steps(values, column.kind)


def of_categories(values: Sequence[Value]) -> Colouring:
    """A colour for each of the most frequent values, by name."""
    counts = Counter(value for value in values if value is not None)
    names = sorted(str(value) for value, _ in counts.most_common(MOST_VALUES))
    place = {name: at for at, name in enumerate(names)}
    colours = tuple(cards.colours_of(names).values())
    if len(counts) > len(names):
        names, colours = [*names, "another value"], (*colours, NONE)
    known = len(names)
    codes = [
        known if value is None else place.get(str(value), known - 1)
        for value in values
    ]  # fmt: skip
    return with_rest(np.array(codes), tuple(names), colours, NO_VALUE)


def of_steps(values: Sequence[Value], kind: str) -> Colouring:
    """Of a number or date: a colour for each value where they are few, else for steps of as many images."""
    there = np.array([at for at, value in enumerate(values) if value is not None], np.int64)
    told = np.array([value for value in values if value is not None])
    apart, place, counts = np.unique(told, return_inverse=True, return_counts=True)
    step = np.arange(len(apart))
    if len(apart) > MOST_APART:
        middle = (np.cumsum(counts) - counts / 2) / counts.sum()
        step = np.unique((middle * STEPS).astype(np.int64), return_inverse=True)[1]
    count = int(step.max()) + 1 if len(step) else 0
    texts = texts_of(apart, kind)
    names = []
    for at in range(count):
        own = np.flatnonzero(step == at)
        first, last = texts[own[0]], texts[own[-1]]
        names.append(first if first == last else f"{first} to {last}")
    codes = np.full(len(values), count, np.int64)
    codes[there] = step[place]
    said = (
        "From little to much, in steps of about equally many images." if len(apart) > count else ""
    )
    return with_rest(codes, tuple(names), ramp(count), NO_VALUE, said)


def texts_of(values: np.ndarray, kind: str) -> list[str]:
    """Numbers by four digits, dates by their day, or by the minute where there are but two days or fewer."""
    if kind == "number":
        return [f"{value:.4g}" for value in values.tolist()]
    days = {text[:10] for text in values.tolist()}
    return [text[:10] if len(days) > 2 else text[:16].replace("T", " ") for text in values.tolist()]


def ramp(count: int) -> tuple[str, ...]:
    """So many colours from little to much."""
    places = np.linspace(0, len(RAMP) - 1, count) if count > 1 else np.array([2.0] * count)
    rows = [np.interp(places, np.arange(len(RAMP)), RAMP[:, at]) for at in range(3)]
    return tuple(
        f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.array(rows).T.round().astype(int).tolist()
    )
