"""HTML of the Probe tab: the images to label, the verdict, the curve, the table of mix-ups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.cards import Seen, label_chip, picture, safe
from app.probing.judging import HARDLY, HELPS, Figure, Judgement, Point
from app.store import Row

KEYS = 9
MOST_IN_TABLE = 12  # classes; more become a list of the commonest mix-ups
MIXED = 12

# Clicks choose here, without asking Python; what acts is told as an event of the component.
ON_LOAD = """
const tell = (name, data) => trigger(name, data);
const every = what => [...element.querySelectorAll(what)];
const pressed = () => every('[data-image][aria-pressed="true"]').map(one => one.dataset.image);
const count = () => {
  const told = element.querySelector('.jp-probe-count'), n = pressed().length;
  const text = n ? `${n} chosen` : 'none chosen';
  if (told && told.textContent !== text) told.textContent = text;
};
const chosen = new Set();  // outlives a redraw
const press = (one, on) => {
  one.setAttribute('aria-pressed', on);
  chosen[on ? 'add' : 'delete'](one.dataset.image);
};
let last = null;
new MutationObserver(() => {
  const here = every('[data-image]');
  const ids = new Set(here.map(one => one.dataset.image));
  chosen.forEach(id => ids.has(id) || chosen.delete(id));
  here.forEach(one => {
    const on = String(chosen.has(one.dataset.image));
    if (one.getAttribute('aria-pressed') !== on) one.setAttribute('aria-pressed', on);
  });
  count();
}).observe(element, {childList: true, subtree: true});
const put = label => {
  let ids = pressed();
  const focused = document.activeElement && document.activeElement.dataset.image;
  if (!ids.length && focused && element.contains(document.activeElement)) ids = [focused];
  chosen.clear();
  tell('put', {ids, label});
};
element.addEventListener('click', event => {
  const at = what => event.target.closest(what);
  let one;
  if ((one = at('[data-look]'))) return tell('look', {id: one.dataset.look});
  if ((one = at('[data-image]'))) {
    const all = every('[data-image]'), here = all.indexOf(one), before = all.indexOf(last);
    const on = one.getAttribute('aria-pressed') !== 'true';
    if (event.shiftKey && before >= 0)
      all.slice(Math.min(here, before), Math.max(here, before) + 1).forEach(each => press(each, on));
    else press(one, on);
    last = one;
    return count();
  }
  if ((one = at('[data-label]'))) return put(one.dataset.label);
  if ((one = at('[data-show]'))) return tell('show', {what: one.dataset.show});
  if ((one = at('[data-turn]'))) return tell('turn', {by: Number(one.dataset.turn)});
  if ((one = at('[data-do]'))) return act(one.dataset.do);
});
const act = what => {
  if (what === 'all' || what === 'none') {
    every('[data-image]').forEach(one => press(one, what === 'all'));
    count();
  } else tell(what, {});
};
document.addEventListener('keydown', event => {
  if (!element.isConnected || element.offsetParent === null) return;
  const into = event.target;
  if (into.closest && into.closest('input, textarea, select, [contenteditable]')) return;
  if ((event.ctrlKey || event.metaKey) && event.key === 'z') { event.preventDefault(); return act('undo'); }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const labels = every('[data-label]');
  const number = '123456789'.indexOf(event.key);
  if (event.key.length === 1 && number >= 0 && labels[number]) put(labels[number].dataset.label);
  else if (event.key === '0') put('');
  else if (event.key === 'a') act('all');
  else if (event.key === 'u') act('undo');
  else if (event.key === 'n') tell('show', {what: 'ask'});
  else if (event.key === 'Escape') act('none');
});
let opened = false;
new IntersectionObserver(seen => {
  if (!opened && seen.some(one => one.isIntersecting)) { opened = true; tell('open', {}); }
}).observe(element);
"""
# A cell of the table, told with its place.
ON_CELL = """
element.addEventListener('click', event => {
  const one = event.target.closest('[data-cell]');
  if (one) trigger('cell', {id: one.dataset.cell});
});
"""


@dataclass(frozen=True)
class Shown:
    """One image of the gallery."""

    row: Row
    label: str | None  # what it is called now
    own: bool  # by a person here, not by its folder
    guess: str | None = None  # of the head; None where there is no head
    share: float = 0.0  # its probability
    unsure: bool = False
    left_out: bool = False


def bench(
    shown: Sequence[Shown],
    labels: Sequence[str],
    choices: Sequence[tuple[str, str]],
    what: str,
    place: str,
    said: str,
    colours: dict[str, str],
    seen: Seen,
) -> str:
    """`choices`: (name, what it says) of the views; `what` is the one shown, `said` a sentence about it."""
    views = "".join(
        f'<button type="button" data-show="{safe(name)}" aria-pressed="{str(name == what).lower()}">'
        f"{safe(text)}</button>"
        for name, text in choices
    )
    pager = (
        f'<nav class="jp-probe-turn"><button type="button" data-turn="-1">← Back</button><span>{place}</span>'
        '<button type="button" data-turn="1">Next →</button></nav>'
        if place
        else ""
    )
    images = "".join(thumb(one, colours, seen) for one in shown)
    grid = (
        f'<div class="jp-probe-grid">{images}</div>'
        if shown
        else '<p class="jp-empty">No images here.</p>'
    )
    return (
        f'<div class="jp-probe-views" role="group" aria-label="Which images">{views}</div>'
        f'<p class="jp-probe-said">{safe(said)}</p>{palette(labels, colours)}{grid}{pager}'
    )


def palette(labels: Sequence[str], colours: dict[str, str]) -> str:
    """The labels to give, with their keys."""
    if not labels:
        return (
            '<div class="jp-probe-palette"><p class="jp-probe-first">There are no labels yet. '
            "Type the first two below, such as “good” and “crack”.</p></div>"
        )
    buttons = "".join(
        f'<button type="button" data-label="{safe(label)}">'
        f"{f'<kbd>{at}</kbd>' if at <= KEYS else ''}{label_chip(label, colours)}</button>"
        for at, label in enumerate(labels, 1)
    )
    tools = (
        '<span class="jp-probe-count" role="status">none chosen</span>'
        '<button type="button" data-do="all"><kbd>a</kbd>Choose all</button>'
        '<button type="button" data-do="undo"><kbd>u</kbd>Undo</button>'
    )
    return (
        '<div class="jp-probe-palette"><div class="jp-probe-labels" role="group" aria-label="Labels">'
        f'{buttons}</div><div class="jp-probe-tools">{tools}</div></div>'
    )


def thumb(one: Shown, colours: dict[str, str], seen: Seen) -> str:
    if one.left_out:
        told = '<span class="jp-probe-guess">left out</span>'
    elif one.label is not None:
        told = f'<span class="jp-probe-own">{"✓ " if one.own else ""}{label_chip(one.label, colours)}</span>'
        if one.guess is not None and one.guess != one.label:
            told += f'<span class="jp-probe-guess">{safe(one.guess)}? {one.share:.0%}</span>'
    elif one.guess is None:
        told = '<span class="jp-probe-guess">no label</span>'
    elif one.unsure:
        told = (
            f'<span class="jp-probe-guess"><b>unsure</b>, {safe(one.guess)}? {one.share:.0%}</span>'
        )
    else:
        told = f'<span class="jp-probe-guess">{safe(one.guess)}? {one.share:.0%}</span>'
    name = safe(one.row.id)
    return (
        f'<div class="jp-probe-one"><button type="button" class="jp-thumb" data-image="{name}" '
        f'aria-pressed="false" title="{name}">{picture(one.row, seen)}</button>{told}'
        f'<button type="button" class="jp-probe-look" data-look="{name}" title="Look at it in Search" '
        f'aria-label="Look at {name} in Search">⌕</button></div>'
    )


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
        told += ": twice as many labels will probably bring about half of that again."
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
    return f'<section><h3>Commonest mix-ups</h3><ul class="jp-probe-mixed">{items}</ul></section>'


def empty(text: str, more: str = "") -> str:
    return f'<div class="jp-welcome"><b>{safe(text)}</b><span>{safe(more)}</span></div>'


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
