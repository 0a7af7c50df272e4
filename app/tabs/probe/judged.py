"""HTML of how good a probe is: the verdict, the curve, the table of mix-ups, what "unsure" promises."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.cards import label_chip, safe
from jepack.probing.judging import HARDLY, HELPS, Figure, Judgement, Point

MOST_IN_TABLE = 12  # classes; more become a list of the commonest mix-ups
MIXED = 12


def verdict(found: Judgement, groups: str, unjudged: Sequence[str]) -> str:
    """What the labels and the encoder are worth, in words first."""
    beats = found.over_majority.low > 0
    against = found.over_random
    if not beats:
        headline = "These classes cannot be told apart yet"
    elif against is not None and against.low <= 0:
        headline = "The classes can be told apart, but not surely better than by raw pixels"
    elif found.accuracy.low >= 0.9:
        headline = "The encoder tells these classes apart well"
    elif found.accuracy.low >= 0.6:
        headline = "The encoder tells these classes apart mostly"
    else:
        headline = "The encoder tells these classes apart, with many mistakes"
    right = found.accuracy
    lines = [
        f"Of 100 images that it has not seen it names {100 * right.share:.0f} rightly "
        f"({100 * right.low:.0f} to {100 * right.high:.0f} with 95 % confidence)."
    ]
    weakest = weakest_of(found)
    if weakest:
        lines.append(weakest)
    if found.groups is not None:
        lines.append(
            f"Images with the same {groups} were never on both sides ({found.groups:,} groups)."
        )
    if found.kind == "prototypes":
        lines.append(
            "Each class is told by its mean, because half of the classes have fewer than 5 labels."
        )
    if unjudged:
        names = ", ".join(unjudged[:5])
        lines.append(f"Not judged, seen in one image or one group alone: {names}.")
    text = "".join(f"<p>{safe(line)}</p>" for line in lines)
    return (
        f'<section class="jp-probe-verdict"><h3>{safe(headline)}</h3>{text}{bars(found)}</section>'
    )


def weakest_of(found: Judgement) -> str:
    counts = found.confusion.sum(axis=1)
    there = np.flatnonzero(counts)
    recall = found.confusion[there, there] / counts[there]
    if len(there) < 3 or recall.min() == recall.max():
        return ""
    at = int(recall.argmin())
    return f"Weakest: {found.classes[there[at]]}, found in {recall[at]:.0%} of its images."


def bars(found: Judgement) -> str:
    """The accuracy beside what needs no encoder."""
    rows = [("this encoder", found.accuracy)]
    if found.random is not None:
        rows.append(("random encoder", found.random))
    rows.append(("always the commonest", Figure(found.majority, found.majority, found.majority)))
    drawn = "".join(
        f'<li><span>{name}</span><span class="jp-bar"><i style="width:{100 * one.share:.1f}%"></i></span>'
        f"<b>{one.share:.0%}</b></li>"
        for name, one in rows
    )
    waiting = "" if found.random is not None else "<p>Comparing with a random encoder …</p>"
    note = "<p>Random encoder: the same probe on the thumbnails at 24 px, mixed by one random matrix.</p>"
    return f'<ul class="jp-probe-bars">{drawn}</ul>{waiting or note}'


def curve(points: Sequence[Point], gain: Figure | None) -> str:
    """Whether more labels would help, and the curve that says so."""
    if not points or gain is None:
        return (
            "<section><h3>Would more labels help?</h3><p>Too few labels yet to say.</p></section>"
        )
    last, half = points[-1], points[-2]
    told = (
        f"From {half.labels:,} labels to {last.labels:,} the share of right names went from "
        f"{half.right.share:.0%} to {last.right.share:.0%}"
    )
    if gain.low > HELPS:
        headline = "More labels will help"
        more = min(1 - last.right.share, (last.right.share - half.right.share) / 2)
        told += f": twice as many labels will probably bring about {100 * more:.0f} points more."
    elif gain.high < HARDLY:
        headline = "More labels will hardly help"
        told += ". Other images, or another encoder, would."
    else:
        headline = "Whether more labels would help, cannot be told yet"
        told += f" (a change of {100 * gain.low:+.0f} to {100 * gain.high:+.0f} points)."
    return f"<section><h3>{headline}</h3><p>{safe(told)}</p>{drawn_curve(points)}</section>"


def drawn_curve(points: Sequence[Point]) -> str:
    width, height, left, bottom = 340, 150, 38, 24
    low = max(0.0, min(point.right.low for point in points) - 0.05)
    high = min(1.0, max(point.right.high for point in points) + 0.02)

    def x(at: int) -> float:
        return left + 12 + (width - left - 40) * at / max(1, len(points) - 1)

    def y(share: float) -> float:
        return 8 + (height - bottom - 8) * (1 - (share - low) / max(1e-9, high - low))

    line = " ".join(f"{x(at):.1f},{y(one.right.share):.1f}" for at, one in enumerate(points))
    marks = "".join(
        f'<line x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{y(one.right.low):.1f}" y2="{y(one.right.high):.1f}"/>'
        f'<circle cx="{x(at):.1f}" cy="{y(one.right.share):.1f}" r="3.5"/>'
        f'<text x="{x(at):.1f}" y="{height - 6}" text-anchor="middle">{one.labels:,}</text>'
        for at, one in enumerate(points)
    )
    sides = "".join(
        f'<text x="{left - 6}" y="{y(share) + 4:.1f}" text-anchor="end">{share:.0%}</text>'
        for share in (low, high)
    )
    said = "; ".join(f"{one.labels:,} labels {one.right.share:.0%}" for one in points)
    return (
        f'<svg class="jp-probe-curve" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Share of right names by number of labels: {said}">'
        f'<polyline points="{line}"/>{marks}{sides}</svg><p class="jp-probe-axis">labels → right names</p>'
    )


def confusion(found: Judgement, colours: dict[str, str]) -> str:
    """What is taken for what; each number opens its images."""
    if len(found.classes) > MOST_IN_TABLE:
        return mixed(found)
    head = "".join(f'<th scope="col">{safe(name)}</th>' for name in found.classes)
    rows = ""
    for at, name in enumerate(found.classes):
        counts = found.confusion[at]
        total = max(1, int(counts.sum()))
        cells = "".join(
            f'<td class="{"jp-probe-right" if at == other else "jp-probe-wrong"}" '
            f'style="--share:{100 * n / total:.0f}%">'
            + (
                f'<button type="button" data-cell="{at}-{other}" title="{safe(name)} taken for '
                f'{safe(found.classes[other])}: {n}">{n}</button>'
                if n
                else ""
            )
            + "</td>"
            for other, n in enumerate(counts)
        )
        rows += f'<tr><th scope="row">{label_chip(name, colours)}</th>{cells}</tr>'
    return (
        "<section><h3>What is taken for what</h3><p>A row for each true class, a column for each name given. "
        'Click a number to see its images.</p><div class="jp-probe-scroll" tabindex="0" role="region" '
        f'aria-label="Table of mix-ups"><table class="jp-probe-table"><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def mixed(found: Judgement) -> str:
    """The commonest mix-ups of many classes."""
    wrong = found.confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MIXED]
    items = "".join(
        f'<li><button type="button" data-cell="{at}-{other}">{safe(found.classes[at])} taken for '
        f"{safe(found.classes[other])}: {wrong[at, other]}</button></li>"
        for at, other in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[at, other]
    )
    if not items:
        return "<section><h3>Commonest mix-ups</h3><p>None: each got its own name.</p></section>"
    return f'<section><h3>Commonest mix-ups</h3><ul class="jp-probe-mixed">{items}</ul></section>'


def working(share: float) -> str:
    return f'<p class="jp-working" role="status">Judging: {share:.0%}</p>'


def unsure(named: int, unsure_images: int, rate: float, need: int, have: int) -> str:
    """What the word "unsure" promises."""
    if have < need:
        return (
            "<section><h3>Every image is still “unsure”</h3><p>To let at most "
            f"{rate:.0%} of the images have a wrong name, {need:,} labels must be held back, and there are "
            f"{have:,}. Label more, or allow more wrong names.</p></section>"
        )
    total = max(1, named + unsure_images)
    return (
        f"<section><h3>{named / total:.0%} of the unlabelled images get a name</h3><p>The others are "
        f"“unsure”. Of images like the labelled ones at most {rate:.0%} get a wrong name (split-conformal, "
        f"from {have:,} labels that the probe did not learn from).</p></section>"
    )
