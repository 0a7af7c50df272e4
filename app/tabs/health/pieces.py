"""HTML of the Health tab."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from app import cards
from app.cards import Seen, file_name, picture, safe
from app.scale import Scale
from app.store import Row
from app.tabs.health import pictures
from app.tabs.health.measuring import Measured
from app.tabs.health.occlusion import Occlusion
from app.tabs.health.verdict import Sentence
from jepack.decoding import Pixels

SIGNS = {"good": "✓", "limit": "~", "bad": "!", "unknown": "?"}
STATES = {"calm": "good", "alarm": "bad", "unknown": "unknown"}  # of a gateway


def verdict(kind: str, words: str, sentences: list[Sentence]) -> str:
    """The words first, then what they rest on."""
    items = "".join(
        f'<li class="jp-health-{one.kind}"><em>{SIGNS[one.kind]}</em><span>{safe(one.text)}</span></li>'
        for one in sentences
    )
    return (
        f'<section class="jp-health-verdict jp-health-{kind}" data-kind="{kind}">'
        f"<h2><em>{SIGNS[kind]}</em> {safe(words)}</h2><ul>{items}</ul></section>"
    )


def empty(text: str) -> str:
    return f'<p class="jp-health-empty">{safe(text)}</p>'


def told(text: str) -> str:
    """What the measuring came to where there is no picture."""
    return f'<p class="jp-health-empty jp-health-told" role="status">{safe(text)}</p>'


def measured(found: Measured, output: str, seen: Seen) -> str:
    """The pictures, each with its meaning."""
    drawn = [
        spectrum(found),
        pictures.figure(
            "All directions",
            pictures.bell(
                found.bells, "Images along 256 directions at random, beside the bell curve"
            ),
            f"How {found.images:,} images spread along 256 directions taken at random; the line is the bell "
            f"curve that they should fill. {beside_chance(found)}{scaled(output)}",
        ),
        worst(found, seen),
    ]
    return f'<div class="jp-health-figures">{"".join(drawn)}</div>{of_labels(found)}'


def spectrum(found: Measured) -> str:
    values, rank = found.report.spectrum, found.report.effective_rank
    half = sum(1 for _ in until_half(values))
    few = "alone" if half == 1 else f"{half}"
    said = (
        f"Bars are the strongest directions in which these images differ; at the dashed line all "
        f"{found.dimensions} would be equal. Half of all difference lies in the first {few}; the whole "
        f"is as rich as {rank:.0f} equal directions (effective rank)."
    )
    drawn = pictures.spectrum(values, found.dimensions, "Variance of each direction, largest first")
    return pictures.figure("Spectrum", drawn, said)


def until_half(values: tuple[float, ...]) -> Any:
    """The values that together hold half of their sum."""
    so_far, total = 0.0, sum(values)
    for value in values:
        if so_far >= total / 2:
            return
        so_far += value
        yield value


def beside_chance(found: Measured) -> str:
    ratio = found.report.statistic / found.report.floor
    return (
        f"The departure from it is {times(ratio)} times what chance gives {found.images:,} truly Gaussian "
        "points (1 is none)."
    )


def times(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 10 else f"{ratio:,.0f}"


def scaled(output: str) -> str:
    if output == "projection":
        return ""
    return (
        " An embedding has no scale of its own, so all its directions were brought to mean 0 and scaled by "
        "one number; only a projection is trained to be a bell curve."
    )


def worst(found: Measured, seen: Seen) -> str:
    """The direction farthest from the Gaussian, and the images at its two ends."""
    drawn = pictures.bell(found.worst, "Images along the worst direction, beside the bell curve")
    ends = "".join(
        f'<div class="jp-health-end"><span>{name}</span>{"".join(thumb(row, seen) for row in rows)}</div>'
        for name, rows in zip(("one end", "other end"), found.ends, strict=True)
    )
    return pictures.figure(
        "Worst direction",
        f"{drawn}{ends}",
        f"Of the 256 the one least like a bell: {times(found.worst_statistic)} times chance. The images at "
        "its two ends show what it tells apart; if that is dust, borders or a camera, the encoder "
        "has learnt it.",
    )


def thumb(row: Row, seen: Seen) -> str:
    return (
        f'<button type="button" class="jp-thumb" data-id="{safe(row.id)}" '
        f'title="{safe(row.id)}">{picture(row, seen)}</button>'
    )


def of_labels(found: Measured) -> str:
    if found.overall is None:
        return empty(
            "How well each label is found is not told: the images of this index have no two labels. Class "
            "folders are labels, or a manifest brings them."
        )
    return pictures.figure(
        "How well each label is found",
        pictures.labels(found.labels, found.chance),
        "The share of an image's ten nearest that have its label (precision at 10), the weakest label first; "
        "the thin bar is its 95 % interval, in brackets with the images that asked. The upright line is "
        f"chance ({found.chance:.0%}). Training may have seen these images: the held-out figure, where there "
        "is one, stands in the verdict.",
    )


def drift(kind: str, headline: str, sentences: list[str]) -> str:
    lines = "".join(f"<p>{safe(one)}</p>" for one in sentences)
    return (
        f'<div class="jp-health-drift jp-health-{kind}" data-kind="{kind}" role="status">'
        f"<b><em>{SIGNS[kind]}</em> {safe(headline)}</b>{lines}</div>"
    )


def gateway(told: dict[str, Any]) -> str:
    """What a gateway says of one model version; `drift_live.ask` checked it."""
    lines = [f"{told['model']} ({told['fingerprint']})"]
    if told["watching"]:
        lines.append(
            f"{told['images']:,} images watched since {told['watched_since']}; alarm above z = "
            f"{told['threshold']:.1f}: {told['promise']}."
        )
        full = [one for one in told["windows"] if one["full"]]
        if full:
            last = full[-1]
            lines.append(
                f"The latest {last['length']:,} images lie {last['mean_shift']:.2f} standard deviations from "
                f"the ordinary, and {last['atypical']:.0%} of them look atypical (5 % of ordinary ones do)."
            )
    words = told["verdict"]
    return drift(STATES[told["state"]], f"The endpoint says: {words}", lines)


def refused(names: dict[str, str]) -> str:
    """The files that were no images, and why."""
    return "".join(cards.note(f"{name}: {reason}") for name, reason in list(names.items())[:5])


def occlusion(found: Occlusion, scale: Scale | None, seen: Seen) -> str:
    """The image with the parts that matter marked, beside its neighbour."""
    change = found.covered - found.distance
    strongest = max(float(np.abs(change).max()), 1e-12)
    side = 100 / len(change)
    marks = "".join(
        f'<rect class="jp-health-{"rests" if value > 0 else "against"}" x="{side * x:.2f}" '
        f'y="{side * y:.2f}" width="{side:.2f}" height="{side:.2f}" '
        f'fill-opacity="{0.75 * abs(value) / strongest:.3f}" data-change="{value:.6g}"/>'
        for (y, x), value in np.ndenumerate(change)
    )
    return (
        '<div class="jp-health-occlusion"><div class="jp-health-covered">'
        f'<img src="data:image/png;base64,{png(found.crop)}" alt="{safe(file_name(found.image))}">'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{marks}</svg></div>'
        f'<div class="jp-frame">{picture(found.neighbour, seen)}</div>'
        f"<p>{safe(occlusion_told(found, scale))}</p></div>"
    )


def occlusion_told(found: Occlusion, scale: Scale | None) -> str:
    """Where the likeness lies, in words."""
    y, x = np.unravel_index(int(found.covered.argmax()), found.covered.shape)
    most = float(found.covered.max())
    parts = len(found.covered)
    place = f"row {y + 1}, column {x + 1} of {parts} by {parts}"
    name = f"“{file_name(found.neighbour)}”"
    if most <= found.distance:
        return (
            f"Covering any one part makes it no less like its nearest, {name}: all of it is alike."
        )
    told = (
        f"Left the image, right its nearest, {name}. Where it is marked in orange, covering that part makes "
        f"the two less alike; in blue, more. The strongest is {place}: the distance goes from "
        f"{found.distance:.3g} to {most:.3g}"
    )
    if scale is None:
        return f"{told}."
    before, after = scale.nearer_than(found.distance), scale.nearer_than(most)
    return f"{told}, from nearer than {before:.1%} of all pairs here to nearer than {after:.1%}."


def png(crop: Pixels) -> str:
    """What the encoder sees, as base64; of other channels than grey or colour the first."""
    pixels = crop if crop.shape[-1] == 3 else crop[..., 0]
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
