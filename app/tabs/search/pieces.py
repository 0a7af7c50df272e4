"""HTML of the Search tab: the gallery, the query, and what is said of it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace

from app.belonging import Belonging
from app.cards import MOST_UNSEEN, WHOLE, Seen, file_name, label_chip, picture, safe, unseen
from app.library import Library
from app.store import Hit, Row
from app.tabs.search.filters import filters
from app.tabs.search.question import HOW, Example, Question
from app.tabs.search.results import Look
from app.tabs.search.visit import Known, Visit

SIGNS = {"usual": "✓", "far": "~", "strange": "!", "unknown": "?"}


def welcome() -> str:
    return (
        '<div class="jp-welcome"><b>Choose an image on the left, or drop one of your own.</b>'
        "<span>Its nearest neighbours in the encoder's space appear here. "
        "Click a neighbour to travel on from it.</span></div>"
    )


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
        asks = query(visit.known[0], visit, look, [summary, *said], belonging, question)
    turn = ' data-new="1"' if new else ""
    return (
        f'<div class="jp-asked" data-address="{safe(question.address)}" data-asked="{safe(address)}"{turn}>'
        f"{asks}{trail(visit)}{filters(question, library)}</div>"
    )


def query(
    known: Known,
    visit: Visit,
    look: Look,
    said: Sequence[str],
    belonging: Belonging,
    question: Question,
) -> str:
    """The one image that asks, whole, what is `said` of it, and how much it belongs."""
    row, box = known.row, known.example.box
    hidden = unseen(row, look.seen)
    told = "".join(f"<p>{safe(one)}</p>" for one in said if one)
    crop = cropped(hidden, question) if hidden > MOST_UNSEEN else ""
    seen = WHOLE if question.by_squares else look.seen
    return (
        f'<div class="jp-query"><div class="jp-frame">{picture(row, seen)}</div><div class="jp-about">'
        f'<span class="jp-over">{"Query" if box is None else "Query: a part of"}</span>'
        f"<strong>{safe(file_name(row))}</strong>{label_chip(row.label, look.colours)}"
        f"{told}{crop}{looks(known, visit)}{belongs(belonging)}</div></div>"
    )


def cropped(hidden: float, question: Question) -> str:
    """What the encoder does not see of the image that asks, and how all of it can ask."""
    told = f"The encoder sees the bright part alone: {1 - hidden:.0%} of it."
    if question.by_squares:
        told = "Searched square by square along its long side: what is said here is of the nearest "
        told += "square, and each neighbour says which it is near to."
    elif question.examples[0].box is not None:
        return f'<p class="jp-cropped">{told}</p>'
    to, said = replace(question, squares=not question.by_squares, k=None), "Search with all of it"
    said = "Search with the middle alone" if question.by_squares else said
    return (
        f'<p class="jp-cropped">{told}</p>'
        f'<a class="jp-act jp-wide" data-squares href="{safe(to.address)}">{said}</a>'
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


def agreement(hits: Sequence[Hit], label: str | None) -> str:
    """How many of the neighbours share the query's label, in words."""
    if label is None or not hits:
        return f"{len(hits)} nearest of the index, by cosine distance."
    same = sum(hit.row.label == label for hit in hits)
    amount = {0: "None", len(hits): "All"}.get(same, str(same))
    return f"{amount} of its {len(hits)} neighbours share the label “{label}”."
