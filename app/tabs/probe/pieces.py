"""HTML of the Probe tab's left side: the images to label and the labels to give; judged.py has the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.cards import Seen, label_chip, picture, safe
from app.store import Row

KEYS = 9

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
jpAsk(element, () => tell('open', {}), () => !element.textContent.includes('Opening …'));
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


def empty(text: str, more: str = "") -> str:
    return f'<div class="jp-welcome"><b>{safe(text)}</b><span>{safe(more)}</span></div>'
