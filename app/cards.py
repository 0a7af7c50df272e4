"""The page's HTML: every text from outside (file names, labels, reasons) goes through `safe`."""

from __future__ import annotations

import base64
import colorsys
import html
from collections.abc import Sequence
from pathlib import PurePosixPath

from app.store import IndexInfo, Row
from app.thumbnail import size_of
from jepack.decoding import seen_box

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
MOST_UNSEEN = 0.05  # share of a picture that may be cut off without a word
GOLDEN = 0.381966  # of a turn
SHAPES = 5  # jp-shape-0 to 4 of page.css
# For gr.HTML(js_on_load=...): a click on what has a data-id is told as its component's `click`, with `id`.
# One listener on the component outlives every redraw inside it.
ON_CLICK = """
element.addEventListener('click', event => {
  const one = event.target.closest('[data-id]');
  if (one) trigger('click', {id: one.dataset.id});
});
"""

# Of what the page's load fills, or a look at its tab: event `open` asks again where no answer came.
ASKS = """
jpAsk(element, () => trigger('open'), () => element.textContent.trim() || element.querySelector('img'), 2000);
"""

Seen = tuple[float, str]  # crop_pct and crop_mode of the encoder, see Preprocessing
WHOLE: Seen = (1.0, "squash")


def safe(text: str) -> str:
    """Text for HTML; braces and dollars too, because Gradio fills templates with them."""
    escaped = html.escape(text.encode(errors="replace").decode())
    for sign in "${}`\r\n":
        escaped = escaped.replace(sign, f"&#{ord(sign)};")
    return escaped


def picture(row: Row, seen: Seen = WHOLE) -> str:
    """The thumbnail inside the page itself, whole, in the middle of a square frame.

    What an encoder that crops does not see of it is dimmed.
    """
    data = base64.b64encode(row.thumbnail).decode()
    name = f"{file_name(row)}, {row.label}" if row.label else file_name(row)
    height, width = size_of(row.thumbnail)
    box = ""
    if unseen(row, seen) > MOST_UNSEEN:
        top, left, tall, wide = (100 * share for share in seen_box(height, width, *seen))
        inset = f"{top:.2f}% {100 - left - wide:.2f}% {100 - top - tall:.2f}% {left:.2f}%"
        box = f'<i class="jp-seen" style="inset:{inset}"></i>'
    across = 100 * min(1.0, width / height)
    return (
        f'<span class="jp-whole" style="width:{across:.2f}%;aspect-ratio:{width}/{height}">'
        f'<img src="data:image/webp;base64,{data}" alt="{safe(name)}" draggable="false">{box}</span>'
    )


def unseen(row: Row, seen: Seen) -> float:
    """The share of a picture that its encoder does not see, 0..1."""
    _, _, tall, wide = seen_box(*size_of(row.thumbnail), *seen)
    return 1 - tall * wide


def file_name(row: Row) -> str:
    return PurePosixPath(row.id).name


def label_chip(label: str | None, colours: dict[str, str]) -> str:
    """The label with its mark: a colour of its own, and one of five shapes for those who see few colours."""
    if label is None:
        return ""
    at = list(colours).index(label) if label in colours else 0
    shape = f"jp-shape-{at // len(LABEL_COLOURS) % SHAPES}"
    colour = colours.get(label, "#8a857b")
    mark = f'<i class="{shape}" style="background:{colour}"></i>'
    return f'<span class="jp-label">{mark}<bdi>{safe(label)}</bdi></span>'


def colours_of(labels: Sequence[str]) -> dict[str, str]:
    """A colour per label, all different: LABEL_COLOURS first, then hues a golden angle apart."""
    found = dict(zip(labels, LABEL_COLOURS, strict=False))
    for at, label in enumerate(labels[len(LABEL_COLOURS) :]):
        lightness = (0.40, 0.55, 0.68)[at % 3]
        red, green, blue = colorsys.hls_to_rgb(at * GOLDEN % 1, lightness, 0.55)
        found[label] = f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"
    return found


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


def status(kind: str, headline: str, detail: str = "", remedy: str = "") -> str:
    """`kind` is asking, ready, other (another encoder) or down; `remedy` is a command to copy."""
    more = f'<span class="jp-detail">{safe(detail)}</span>' if detail else ""
    if remedy:
        more += f"<code>{safe(remedy)}</code>"
    return (
        f'<div class="jp-status jp-{kind}" role="status"><i></i><b>{safe(headline)}</b>{more}</div>'
    )


def quality(sentences: Sequence[str], working: str = "") -> str:
    """What is known of the encoder, below the header; `working`: what is still being measured."""
    items = "".join(f"<li>{safe(one)}</li>" for one in sentences)
    busy = f'<li class="jp-working" role="status">{safe(working)}</li>' if working else ""
    return f'<ul class="jp-quality" aria-label="How good the encoder is">{items}{busy}</ul>'


def progress(title: str, share: float) -> str:
    """How far a work is, 0..1."""
    return (
        f'<div class="jp-progress" role="status"><span>{safe(title)}: {share:.0%}</span>'
        f'<progress max="1" value="{share:.3f}" aria-label="{safe(title)}"></progress></div>'
    )


def chosen(count: int, said: str) -> str:
    """The bar that tells of a selection, and lets go of it."""
    images = "1 image" if count == 1 else f"{count:,} images"
    return (
        f'<div class="jp-chosen"><b>{images} chosen</b> {safe(said)}'
        '<button type="button" data-id="clear">Show all again</button></div>'
    )


def browse(rows: Sequence[Row], seen: Seen = WHOLE) -> str:
    if not rows:
        return '<p class="jp-empty">No images here.</p>'
    buttons = "".join(
        f'<button type="button" class="jp-thumb" data-id="{safe(row.id)}" '
        f'title="{safe(row.id)}">{picture(row, seen)}</button>'
        for row in rows
    )
    return f'<div class="jp-browse">{buttons}</div>'


def note(text: str, kind: str = "error") -> str:
    """A message in the place of the results; read aloud by screen readers."""
    return f'<div class="jp-note jp-{kind}" role="alert">{safe(text)}</div>'


def log_out(user: str) -> str:
    """Who is logged in, and a button that ends it."""
    return (
        f'<form class="jp-out" method="post" action="logout"><bdi>{safe(user)}</bdi>'
        "<button>Log out</button></form>"
    )
