"""The report of `jepack drift` as one HTML file that needs nothing beside it, light and dark."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jepack.commands import drift_live, drift_picture
from jepack.decoding import Preprocessing, load
from jepack.files import write_bytes
from jepack.measures import Comparison, Null
from jepack.measures.null import ATYPICAL
from jepack.names import shown
from jepack.sources import ImageFile

SIDE = 128  # px of a thumbnail
WORDS = {"calm": "No drift", "alarm": "Drift", "unknown": "Cannot tell"}
STYLE = """
:root { color-scheme: light dark; LIGHT
  --ink: #1c2733; --quiet: #5b6875; --paper: #fff; --line: #d9dfe5;
  --found: #20639b; --limit: #c2344a; --calm: #1d7a4f; --alarm: #c2344a; --unknown: #8a6100 }
@media (prefers-color-scheme: dark) { :root { DARK
  --ink: #e6ebf0; --quiet: #9aa7b4; --paper: #14191f; --line: #323b45;
  --found: #6fb1e8; --limit: #ff7b8c; --calm: #58c793; --alarm: #ff7b8c; --unknown: #e0b04c } }
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 62rem; padding: 0 1rem; overflow-wrap: anywhere }
h1, h2 { font-size: 1.1rem; font-weight: 600; margin: 0; color: var(--quiet) }
h2 { margin-top: 1.5rem }
.state { font-size: 2rem; font-weight: 700; margin: 0 }
.calm { color: var(--calm) } .alarm { color: var(--alarm) } .unknown { color: var(--unknown) }
p { margin: .5rem 0 } .quiet { color: var(--quiet); font-size: .9rem }
figure { margin: 1rem 0; overflow-x: auto } svg { width: 100%; min-width: 40rem; height: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line) }
th { font-weight: 600; color: var(--quiet); font-size: .85rem }
ol { display: flex; flex-wrap: wrap; gap: 1rem; list-style: none; padding: 0 }
li { width: 9rem; font-size: .85rem }
li img { width: 128px; height: 128px; object-fit: contain; display: block }
section + section { border-top: 1px solid var(--line); margin-top: 2rem; padding-top: 2rem }
"""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A verdict and what it rests on. All text is plain; the page escapes it."""

    title: str
    state: str  # calm, alarm or unknown
    verdict: str
    plot: str = ""  # an <svg>
    table: Sequence[Sequence[str]] = ()  # the headings first
    notes: Sequence[str] = ()
    strangest: Sequence[tuple[str, float, bytes | None]] = ()  # name, p-value, thumbnail as PNG

    def html(self) -> str:
        told = [
            f"<h1>{text(self.title)}</h1>",
            f'<p class="state {self.state}">{WORDS[self.state]}</p>',
            f"<p>{text(self.verdict[:1].upper() + self.verdict[1:].rstrip('.'))}.</p>",
        ]
        if self.plot:
            told.append(f"<figure>{self.plot}</figure>")
        if self.table:
            head, *rows = self.table
            told.append(f"<table><tr>{cells('th', head)}</tr>")
            told += [f"<tr>{cells('td', row)}</tr>" for row in rows]
            told.append("</table>")
        if self.strangest:
            told.append("<h2>Most atypical images</h2><ol>")
            told += [
                f"<li>{picture(thumb)}{text(name)}<br>p = {p:.4f}</li>"
                for name, p, thumb in self.strangest
            ]
            told.append("</ol>")
        told += [f'<p class="quiet">{text(note)}</p>' for note in self.notes]
        return f"<section>{''.join(told)}</section>"


def text(value: str) -> str:
    return escape(shown(value))


def cells(tag: str, row: Sequence[str]) -> str:
    return "".join(f"<{tag}>{text(one)}</{tag}>" for one in row)


def picture(thumbnail: bytes | None) -> str:
    if thumbnail is None:
        return ""
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(thumbnail).decode()}">'


def write(path: Path, sections: Sequence[Section]) -> None:
    style = STYLE
    for name, ends in {"LIGHT": (0.35, 1), "DARK": (0.7, 0.1)}.items():
        ramp = drift_picture.shades(drift_picture.MOST_SHADES, *ends)
        style = style.replace(name, " ".join(f"--w{n}: {one};" for n, one in enumerate(ramp)))
    worst = next(s for s in ("alarm", "unknown", "calm") if s in {one.state for one in sections})
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{WORDS[worst]}: {text(sections[0].title)}</title><style>{style}</style></head>"
        f"<body>{''.join(one.html() for one in sections)}</body></html>\n"
    )
    write_bytes(path, page.encode())


def of_gateway(told: dict[str, Any]) -> Section:
    """What a gateway tells of a model version."""
    title = f"{told['model']}, projection {told['fingerprint']}"
    if not told["watching"]:
        return Section(title=title, state=told["state"], verdict=told["verdict"])
    with drift_picture.for_page():
        plot = drift_picture.svg(drift_picture.live(told), len(told["windows"]))
    missed = f" {told['missed']:,} passed by unwatched." if told["missed"] else ""
    return Section(
        title=title,
        state=told["state"],
        verdict=told["verdict"],
        plot=plot,
        table=[drift_live.HEADINGS, *drift_live.rows_of(told)],
        notes=[
            f"{told['images']:,} images watched since {told['watched_since']}.{missed} Alarm above z = "
            f"{told['threshold']:.1f}: {told['promise']}.",
            "The gateway keeps no image, so none is shown.",
        ],
    )


def of_images(
    null: Null,
    found: Comparison,
    title: str,
    strangest: Sequence[tuple[str, float, bytes | None]],
) -> Section:
    """A set of images beside a null."""
    with drift_picture.for_page():
        full = int((null.windows <= found.images).sum())
        plot = drift_picture.svg(drift_picture.comparison(null, found), full)
    shift = (
        f"The mean is shifted by {found.mean_shift:.2f} standard deviations, the variance is "
        f"{found.scale:.2f} times the ordinary one, {found.atypical:.1%} are atypical ({ATYPICAL:.0%} of "
        "ordinary ones)."
    )
    told = (
        f"These {found.images:,} images are unlike the held-out ones, seen after {found.alarm_at:,}."
        if found.drift
        else f"These {found.images:,} images look like the held-out ones."
    )
    rows = [
        [f"{length:,}", f"{z:.1f}", "yes" if z > found.threshold else "no"]
        for length, z in found.windows.items()
    ]
    return Section(
        title=title,
        state="alarm" if found.drift else "calm",
        verdict=f"{told} {shift}",
        plot=plot,
        table=[("window, images", "largest z", f"alarm above {found.threshold:.1f}"), *rows],
        strangest=strangest,
        notes=[f"The null rests on {null.held_out:,} images, their projections summed up."],
    )


def thumbnail(image: ImageFile, preprocessing: Preprocessing) -> bytes:
    """The crop that the encoder saw, never the original, as PNG. Raises DataError."""
    pixels = load(image.read(), preprocessing)
    pixels = pixels[..., 0] if pixels.shape[2] == 1 else pixels[..., :3]
    small = Image.fromarray(np.ascontiguousarray(pixels))
    small.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    small.save(stream, "PNG")
    return stream.getvalue()
