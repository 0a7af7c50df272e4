"""The page's HTML: every text from outside (file names, labels, reasons) goes through `safe`."""

from __future__ import annotations

import base64
import html
import math
import zlib
from collections.abc import Sequence
from pathlib import PurePosixPath

from app.store import Hit, IndexInfo, Row

# Okabe and Ito's colours without yellow and black: told apart by most colour-blind eyes.
LABEL_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#e69f00",
    "#7a6a9b",
    "#6b7f5e",
)
# For gr.HTML(js_on_load=...): a click on what has a data-id is told as its component's `click`, with `id`.
# One listener on the component outlives every redraw inside it.
ON_CLICK = """
element.addEventListener('click', event => {
  const one = event.target.closest('[data-id]');
  if (one) trigger('click', {id: one.dataset.id});
});
"""


def safe(text: str) -> str:
    """Text for HTML; braces and dollars too, because Gradio fills templates with them."""
    escaped = html.escape(text.encode(errors="replace").decode())
    for sign in "${}`\r\n":
        escaped = escaped.replace(sign, f"&#{ord(sign)};")
    return escaped


def picture(row: Row) -> str:
    """The thumbnail inside the page itself: the server hands out no files."""
    data = base64.b64encode(row.thumbnail).decode()
    name = f"{file_name(row)}, {row.label}" if row.label else file_name(row)
    return f'<img src="data:image/webp;base64,{data}" alt="{safe(name)}" draggable="false">'


def file_name(row: Row) -> str:
    return PurePosixPath(row.id).name


def label_chip(label: str | None, colours: dict[str, str]) -> str:
    if label is None:
        return ""
    colour = colours.get(label, "#8a857b")
    return f'<span class="jp-label"><i style="background:{colour}"></i>{safe(label)}</span>'


def colours_of(labels: Sequence[str]) -> dict[str, str]:
    """A colour per label, steady for the first eight; further labels share them by their name."""
    return {
        label: LABEL_COLOURS[at if at < len(LABEL_COLOURS) else zlib.crc32(label.encode()) % 8]
        for at, label in enumerate(labels)
    }


def header(info: IndexInfo, count: int) -> str:
    facts = [
        ("images", f"{count:,}"),
        ("space", f"{info.output} · {info.dimension}-d"),
        ("search", f"exact · {info.metric}"),
        ("encoder", info.bundle or "unknown"),
        ("fingerprint", info.fingerprint),
    ]
    if info.data_license:
        facts.append(("data licence", info.data_license))
    items = "".join(f"<div><dt>{name}</dt><dd>{safe(text)}</dd></div>" for name, text in facts)
    return (
        f'<header class="jp-header"><div class="jp-title"><span class="jp-mark">jepack</span>'
        f"<h1>{safe(info.name)}</h1></div><dl>{items}</dl></header>"
    )


def status(kind: str, headline: str, detail: str = "") -> str:
    """`kind` is ready, other (another encoder) or down."""
    more = f'<span class="jp-detail">{safe(detail)}</span>' if detail else ""
    return (
        f'<div class="jp-status jp-{kind}" role="status" title="{safe(detail)}">'
        f"<i></i><b>{safe(headline)}</b>{more}</div>"
    )


def chosen(count: int, said: str) -> str:
    """The bar that tells of a selection, and lets go of it."""
    images = "1 image" if count == 1 else f"{count:,} images"
    return (
        f'<div class="jp-chosen"><b>{images} chosen</b> {safe(said)}'
        '<button type="button" data-id="clear">Show all again</button></div>'
    )


def browse(rows: Sequence[Row]) -> str:
    if not rows:
        return '<p class="jp-empty">No images here.</p>'
    buttons = "".join(
        f'<button type="button" class="jp-thumb" data-id="{safe(row.id)}" '
        f'title="{safe(row.id)}">{picture(row)}</button>'
        for row in rows
    )
    return f'<div class="jp-browse">{buttons}</div>'


def query(name: str, image: str, label: str, summary: str) -> str:
    return (
        f'<div class="jp-query"><div class="jp-frame">{image}</div><div class="jp-about">'
        f'<span class="jp-over">Query</span><strong>{safe(name)}</strong>{label}'
        f"<p>{summary}</p></div></div>"
    )


def note(text: str, kind: str = "error") -> str:
    """A message in the place of the results; read aloud by screen readers."""
    return f'<div class="jp-note jp-{kind}" role="alert">{safe(text)}</div>'


def welcome() -> str:
    return (
        '<div class="jp-welcome"><b>Choose an image on the left, or drop one of your own.</b>'
        "<span>Its nearest neighbours in the encoder's space appear here. "
        "Click a neighbour to travel on from it.</span></div>"
    )


def neighbours(hits: Sequence[Hit], query_id: str | None, colours: dict[str, str]) -> str:
    """Cards, nearest first; the bar under each is its distance on a scale that all of them share."""
    places = decimals(hits)
    farthest = max((hit.distance for hit in hits), default=0.0) or 1.0
    cards = []
    rank = 0
    for hit in hits:
        own = hit.row.id == query_id
        rank += not own
        distance = f"{hit.distance:.{places}f}" if hit.distance else "0"
        cards.append(
            f'<button type="button" class="jp-card{" jp-own" if own else ""}" '
            f'data-id="{safe(hit.row.id)}" title="{safe(hit.row.id)}">'
            f'<span class="jp-frame">{picture(hit.row)}<em>{"query" if own else rank}</em></span>'
            f'<span class="jp-bar"><i style="width:{100 * hit.distance / farthest:.1f}%"></i></span>'
            f'<span class="jp-caption"><b data-distance="{hit.distance:.9g}">{distance}</b>'
            f"{label_chip(hit.row.label, colours)}</span></button>"
        )
    return f'<div class="jp-cards">{"".join(cards)}</div>'


def agreement(hits: Sequence[Hit], query_id: str | None, label: str | None) -> str:
    """How many of the other neighbours share the query's label, in words."""
    others = [hit for hit in hits if hit.row.id != query_id]
    if label is None or not others:
        return f"{len(others)} nearest of the index, by cosine distance."
    same = sum(hit.row.label == label for hit in others)
    amount = {0: "None", len(others): "All"}.get(same, str(same))
    return f"{amount} of its {len(others)} neighbours share the label “{safe(label)}”."


def decimals(hits: Sequence[Hit]) -> int:
    """Digits after the point that tell the smallest distance, between 3 and 6."""
    smallest = min((hit.distance for hit in hits if hit.distance > 1e-6), default=1.0)
    return max(3, min(6, 1 - math.floor(math.log10(smallest))))
