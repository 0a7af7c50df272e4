"""HTML of the Search tab: the query, what is said of it, its neighbours and the legend of their bars."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from app.belonging import Belonging
from app.cards import MOST_UNSEEN, Seen, file_name, label_chip, picture, safe, unseen
from app.library import Library
from app.scale import Scale
from app.store import Hit, Row
from app.tabs.search.filters import filters
from app.tabs.search.question import HOW, Example, Question
from app.tabs.search.visit import Known, Visit

SIGNS = {"usual": "✓", "far": "~", "strange": "!", "unknown": "?"}


def welcome() -> str:
    return (
        '<div class="jp-welcome"><b>Choose an image on the left, or drop one of your own.</b>'
        "<span>Its nearest neighbours in the encoder's space appear here. "
        "Click a neighbour to travel on from it.</span></div>"
    )


@dataclass(frozen=True)
class Look:
    """How images and distances are shown."""

    scale: Scale | None
    seen: Seen
    colours: dict[str, str]


def strip(
    visit: Visit,
    hits: Sequence[Hit],
    belonging: Belonging | None,
    look: Look,
    library: Library,
    address: str,
    said: Sequence[str] = (),
    *,
    new: bool,
) -> str:
    """What asks, how much it belongs, where the visitor was, and what is shown alone; `said` by probes of it.

    For page.js: the question's own address, and either that it is `new` or as what `address` it came.
    """
    question = visit.question
    assert question is not None
    if belonging is None:
        asks = several(visit.known, question, look)
    else:
        summary = agreement(hits, visit.known[0].row.label)
        asks = query(visit.known[0], visit, look, [summary, *said], belonging)
    turn = ' data-new="1"' if new else ""
    return (
        f'<div class="jp-asked" data-address="{safe(question.address)}" data-asked="{safe(address)}"{turn}>'
        f"{asks}{trail(visit)}{filters(question, library)}</div>"
    )


def query(known: Known, visit: Visit, look: Look, said: Sequence[str], belonging: Belonging) -> str:
    """The one image that asks, whole, what is `said` of it, and how much it belongs."""
    row, box = known.row, known.example.box
    hidden = unseen(row, look.seen)
    told = "".join(f"<p>{safe(one)}</p>" for one in said if one)
    crop = ""
    if hidden > MOST_UNSEEN:
        crop = f'<p class="jp-cropped">The encoder sees the bright part alone: {1 - hidden:.0%} of it.</p>'
    return (
        f'<div class="jp-query"><div class="jp-frame">{picture(row, look.seen)}</div><div class="jp-about">'
        f'<span class="jp-over">{"Query" if box is None else "Query: a part of"}</span>'
        f"<strong>{safe(file_name(row))}</strong>{label_chip(row.label, look.colours)}"
        f"{told}{crop}{looks(known, visit)}{belongs(belonging)}</div></div>"
    )


def looks(known: Known, visit: Visit) -> str:
    """The button that opens an image in full, where a part of it can be chosen."""
    own, box = visit.own.get(known.example.name), known.example.box
    where = "" if box is None else f' data-box="{",".join(f"{share:.4g}" for share in box)}"'
    full = ""
    if known.example.own and own is not None:
        full = f' data-full="data:image/webp;base64,{base64.b64encode(own.full).decode()}" data-own="1"'
    return (
        f'<button type="button" class="jp-act jp-wide" data-view="{safe(known.example.name)}" '
        f'data-title="{safe(file_name(known.row))}"{full}{where}>Look closer, or search a part</button>'
    )


def several(known: Sequence[Known], question: Question, look: Look) -> str:
    """The images that ask together, each with a link that takes it away."""
    sides = [("More like", known[: len(question.like)]), ("Less like", known[len(question.like) :])]
    groups = "".join(
        f'<div class="jp-side"><span class="jp-over">{said}</span><div class="jp-examples">'
        f"{''.join(example(one, question, look) for one in side)}</div></div>"
        for said, side in sides
        if side
    )
    return f'<div class="jp-query jp-several">{groups}<p>{HOW}</p></div>'


def example(known: Known, question: Question, look: Look) -> str:
    rest = question.without(known.example)
    name = safe(file_name(known.row))
    part = "" if known.example.box is None else " (a part)"
    away = (
        f'<a class="jp-act" href="{safe(replace(rest, k=None).address)}" '
        f'aria-label="Take away {name}" title="Take away">×</a>'
        if rest.like
        else ""
    )
    return (
        f'<span class="jp-example" title="{name}{part}"><span class="jp-frame">'
        f"{picture(known.row, look.seen)}</span>{away}</span>"
    )


def trail(visit: Visit) -> str:
    """Where the visitor was, the newest first; nothing before the second place."""
    if len(visit.trail) < 2:
        return ""
    steps = "".join(
        f'<a href="{safe(step.address)}" title="{safe(file_name(step.row) + step.more)}"'
        f"{' aria-current=true' if step is visit.trail[-1] else ''}>"
        f'<span class="jp-frame">{picture(step.row)}</span></a>'
        for step in reversed(visit.trail)
    )
    return (
        '<nav class="jp-trail" aria-label="Where you were"><span class="jp-over">Trail</span>'
        f"{steps}</nav>"
    )


def gallery(rows: Sequence[Row], seen: Seen) -> str:
    """A page of images, each a link to the search with it."""
    if not rows:
        return '<p class="jp-empty">No image here is called so, or has this label.</p>'
    links = "".join(
        f'<a class="jp-thumb" href="{safe(link(row.id))}" data-id="{safe(row.id)}" '
        f'title="{safe(row.id)}">{picture(row, seen)}</a>'
        for row in rows
    )
    return f'<div class="jp-browse">{links}</div>'


def link(name: str) -> str:
    return Question((Example(name),)).address


def belongs(found: Belonging) -> str:
    """The flag in words, with its reasons."""
    reasons = "".join(f"<span>{safe(reason)}</span>" for reason in found.reasons)
    return (
        f'<div class="jp-belongs jp-belongs-{found.kind}" data-kind="{found.kind}" role="status">'
        f"<b><em>{SIGNS[found.kind]}</em> {safe(found.headline)}</b>{reasons}</div>"
    )


def neighbours(hits: Sequence[Hit], look: Look, question: Question) -> str:
    """The legend and a card for each hit, nearest first."""
    if not hits:
        return '<p class="jp-empty">No image here meets what is chosen above.</p>'
    places = decimals(hits)
    cards = "".join(
        card(rank, hit, places, look, question) for rank, hit in enumerate(hits, start=1)
    )
    return f'{legend(look.scale)}<div class="jp-cards">{cards}</div>'


def card(rank: int, hit: Hit, places: int, look: Look, question: Question) -> str:
    """A neighbour as a link to the search with it, and what else can be done with it."""
    distance = f"{hit.distance:.{places}f}" if hit.distance else "0"
    told, drawn = "", ""
    if look.scale is not None:
        told = f"\nnearer than {percent(look.scale.nearer_than(hit.distance))} of all pairs here"
        drawn = bar(look.scale.fill(hit.distance))
    name = hit.row.id
    to = Question((Example(name),), only=question.only).address
    return (
        f'<div class="jp-cell"><a class="jp-card" href="{safe(to)}" data-id="{safe(name)}" '
        f'title="{safe(name + told)}">'
        f'<span class="jp-frame">{picture(hit.row, look.seen)}<em>{rank}</em></span>{drawn}'
        f'<span class="jp-caption"><b data-distance="{hit.distance:.9g}">{distance}</b>'
        f"{label_chip(hit.row.label, look.colours)}</span></a>{acts(name, question)}</div>"
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


def agreement(hits: Sequence[Hit], label: str | None) -> str:
    """How many of the neighbours share the query's label, in words."""
    if label is None or not hits:
        return f"{len(hits)} nearest of the index, by cosine distance."
    same = sum(hit.row.label == label for hit in hits)
    amount = {0: "None", len(hits): "All"}.get(same, str(same))
    return f"{amount} of its {len(hits)} neighbours share the label “{label}”."


def percent(share: float) -> str:
    """Never rounded up to all, nor down to none."""
    if 0.995 <= share < 1:
        return f"{math.floor(10_000 * share) / 100:g} %"
    return f"{100 * share:.0f} %" if share >= 0.01 or share == 0 else "less than 1 %"


def decimals(hits: Sequence[Hit]) -> int:
    """Digits after the point that tell the smallest distance, between 3 and 6."""
    smallest = min((hit.distance for hit in hits if hit.distance > 1e-6), default=1.0)
    return max(3, min(6, 1 - math.floor(math.log10(smallest))))
