"""HTML of what a search found: its neighbours, and the legend of their bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from app.cards import Seen, label_chip, picture, safe
from app.scale import Scale
from app.store import Hit
from app.tabs.search.question import Example, Question


@dataclass(frozen=True)
class Look:
    """How images and distances are shown."""

    scale: Scale | None
    seen: Seen
    colours: dict[str, str]


@dataclass(frozen=True)
class Squares:
    """Along the long side of the image that asks: how many, and of each neighbour the one it is near to."""

    count: int
    matched: dict[str, int]


def neighbours(
    hits: Sequence[Hit], look: Look, question: Question, squares: Squares | None = None
) -> str:
    """The legend and a card for each hit, nearest first; with `squares`, which of them it is near to."""
    if not hits:
        return '<p class="jp-empty">No image here meets what is chosen above.</p>'
    places = decimals(hits)
    cards = "".join(
        card(rank, hit, places, look, question, squares) for rank, hit in enumerate(hits, start=1)
    )
    return f'{legend(look.scale)}<div class="jp-cards">{cards}</div>'


def card(
    rank: int, hit: Hit, places: int, look: Look, question: Question, squares: Squares | None
) -> str:
    """A neighbour as a link to the search with it, and what else can be done with it."""
    distance = f"{hit.distance:.{places}f}" if hit.distance else "0"
    told, drawn = "", ""
    if look.scale is not None:
        told = f"\nnearer than {percent(look.scale.nearer_than(hit.distance))} of all pairs here"
        drawn = bar(look.scale.fill(hit.distance))
    name, which = hit.row.id, ""
    if squares is not None:
        number = squares.matched[name] + 1
        which = f'<small data-square="{number}">square {number} of {squares.count}</small>'
    to = Question((Example(name),), only=question.only).address
    return (
        f'<div class="jp-cell"><a class="jp-card" href="{safe(to)}" data-id="{safe(name)}" '
        f'title="{safe(name + told)}">'
        f'<span class="jp-frame">{picture(hit.row, look.seen)}<em>{rank}</em></span>{drawn}'
        f'<span class="jp-caption"><b data-distance="{hit.distance:.9g}">{distance}</b>'
        f"{label_chip(hit.row.label, look.colours)}{which}</span></a>{acts(name, question)}</div>"
    )


def acts(name: str, question: Question) -> str:
    """More like this, less like this, look closer."""
    links = "".join(
        f'<a class="jp-act" href="{safe(replace(question.also(Example(name), side), k=None).address)}" '
        f'data-side="{side}" title="{said}" aria-label="{said}: {safe(PurePosixPath(name).name)}">{sign}</a>'
        for side, said, sign in (("like", "More like this", "+"), ("unlike", "Less like this", "−"))
    )
    return (
        f'<span class="jp-acts">{links}<button type="button" class="jp-act" data-view="{safe(name)}" '
        f'data-title="{safe(PurePosixPath(name).name)}" title="Look closer" '
        f'aria-label="Look closer: {safe(PurePosixPath(name).name)}">⤢</button></span>'
    )


def bar(fill: float) -> str:
    return f'<span class="jp-bar"><i style="width:{100 * fill:.1f}%" data-fill="{fill:.4f}"></i></span>'


def legend(scale: Scale | None) -> str:
    """What the bars of this index mean; they are the same for every query."""
    if scale is None:
        return ""
    marks = [(1.0, "the same image"), (0.75, "as near as the nearest usually are")]
    if scale.same is not None:
        marks.append((scale.fill(scale.same), "about as alike as two images of one label"))
    marks.append((0.25, "as unlike as two at random"))
    items = "".join(
        f"<li>{bar(fill)}<span>{text}</span></li>"
        for fill, text in sorted(marks, key=lambda mark: -mark[0])
    )
    number = "<li><span>The number: cosine distance, 0 is the same image</span></li>"
    return f'<ul class="jp-legend" aria-label="What the bars mean">{items}{number}</ul>'


def percent(share: float) -> str:
    """Never rounded up to all, nor down to none."""
    if 0.995 <= share < 1:
        return f"{math.floor(10_000 * share) / 100:g} %"
    return f"{100 * share:.0f} %" if share >= 0.01 or share == 0 else "less than 1 %"


def decimals(hits: Sequence[Hit]) -> int:
    """Digits after the point that tell the smallest distance, between 3 and 6."""
    smallest = min((hit.distance for hit in hits if hit.distance > 1e-6), default=1.0)
    return max(3, min(6, 1 - math.floor(math.log10(smallest))))
