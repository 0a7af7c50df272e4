"""HTML of the Search tab: the query, what is said of it, its neighbours and the legend of their bars."""

from __future__ import annotations

import math
from collections.abc import Sequence

from app.belonging import Belonging
from app.cards import MOST_UNSEEN, Seen, file_name, label_chip, picture, safe, unseen
from app.scale import Scale
from app.store import Hit, Row

SIGNS = {"usual": "✓", "far": "~", "strange": "!", "unknown": "?"}


def welcome() -> str:
    return (
        '<div class="jp-welcome"><b>Choose an image on the left, or drop one of your own.</b>'
        "<span>Its nearest neighbours in the encoder's space appear here. "
        "Click a neighbour to travel on from it.</span></div>"
    )


def query(row: Row, seen: Seen, colours: dict[str, str], summary: str, belonging: Belonging) -> str:
    """The image that asks, whole, and how much it belongs."""
    hidden = unseen(row, seen)
    crop = ""
    if hidden > MOST_UNSEEN:
        crop = f'<p class="jp-cropped">The encoder sees the bright part alone: {1 - hidden:.0%} of it.</p>'
    return (
        f'<div class="jp-query"><div class="jp-frame">{picture(row, seen)}</div><div class="jp-about">'
        f'<span class="jp-over">Query</span><strong>{safe(file_name(row))}</strong>'
        f"{label_chip(row.label, colours)}<p>{safe(summary)}</p>{crop}{belongs(belonging)}</div></div>"
    )


def belongs(found: Belonging) -> str:
    """The flag in words, with its reasons."""
    reasons = "".join(f"<span>{safe(reason)}</span>" for reason in found.reasons)
    return (
        f'<div class="jp-belongs jp-belongs-{found.kind}" data-kind="{found.kind}" role="status">'
        f"<b><em>{SIGNS[found.kind]}</em> {safe(found.headline)}</b>{reasons}</div>"
    )


def neighbours(
    hits: Sequence[Hit], scale: Scale | None, seen: Seen, colours: dict[str, str]
) -> str:
    """The legend and a card for each hit, nearest first."""
    places = decimals(hits)
    cards = "".join(
        card(rank, hit, places, scale, seen, colours) for rank, hit in enumerate(hits, start=1)
    )
    return f'{legend(scale)}<div class="jp-cards">{cards}</div>'


def card(
    rank: int, hit: Hit, places: int, scale: Scale | None, seen: Seen, colours: dict[str, str]
) -> str:
    distance = f"{hit.distance:.{places}f}" if hit.distance else "0"
    told, drawn = "", ""
    if scale is not None:
        told = f"\nnearer than {percent(scale.nearer_than(hit.distance))} of all pairs here"
        drawn = bar(scale.fill(hit.distance))
    return (
        f'<button type="button" class="jp-card" data-id="{safe(hit.row.id)}" '
        f'title="{safe(hit.row.id + told)}">'
        f'<span class="jp-frame">{picture(hit.row, seen)}<em>{rank}</em></span>{drawn}'
        f'<span class="jp-caption"><b data-distance="{hit.distance:.9g}">{distance}</b>'
        f"{label_chip(hit.row.label, colours)}</span></button>"
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
    return f'<ul class="jp-legend" aria-label="What the bars mean">{items}</ul>'


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
