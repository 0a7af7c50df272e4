"""HTML of the Clean tab: what to do first, how far the check is, the findings, and the cases of one."""

from __future__ import annotations

from collections.abc import Sequence

from app.cards import Seen, file_name, label_chip, picture, safe
from app.checking.report import Case, Finding, Report
from app.journal import Standing
from app.store import Row

SHOWN = 8  # images of one case
VERBS = {"leave": "Leave out", "relabel": "Relabel", "tag": "Tag “to check”"}


def welcome(count: int) -> str:
    return (
        f'<div class="jp-clean-welcome"><b>Look through these {count:,} images for what spoils training.</b>'
        "<span>Copies, leaks between training and test, wrong labels, images that do not belong, "
        "bad pictures. "
        "It reads what is stored and changes nothing; what you decide goes to a journal beside the "
        "index, and can be "
        "undone.</span></div>"
    )


def working(step: str, share: float) -> str:
    return (
        '<div class="jp-clean-welcome" role="status"><b>Checking this index</b>'
        f'<span>{safe(step or "neighbours")}</span><progress max="1" value="{share:.3f}" '
        f'aria-label="How far the check is"></progress><span>{share:.0%}</span></div>'
    )


def overview(report: Report, kind: str) -> str:
    """The verdict, then a button for each finding."""
    buttons = "".join(
        f'<button type="button" data-id="show {one.kind}" aria-pressed="{str(one.kind == kind).lower()}" '
        f'class="jp-clean-kind{" jp-clean-none" if not one.cases else ""}"><span>{safe(one.title)}</span>'
        f"<b>{amount(one)}</b></button>"
        for one in report.findings
    )
    return (
        f'<p class="jp-clean-verdict" role="status">{safe(report.verdict)}</p>'
        f'<div class="jp-clean-kinds">{buttons}</div>'
    )


def amount(finding: Finding) -> str:
    return "–" if finding.skipped else f"{len(finding.cases):,}"


def finding(
    found: Finding,
    shown: Sequence[tuple[int, Case]],
    rows: dict[str, Row],
    standing: Standing,
    seen: Seen,
    colours: dict[str, str],
    *,
    place: tuple[int, int],
    said: str,
) -> str:
    """Why, then a card for each case."""
    notes = "".join(
        f'<p class="jp-clean-{kind}">{safe(text)}</p>'
        for kind, text in (("why", found.skipped), ("price", found.price), ("method", found.method))
        if text
    )
    bar = f'<span role="status">{safe(said)}</span>' if said else ""
    if found.cases and found.kind != "broken":
        verb = "relabel" if found.kind == "labels" else "leave"
        word = "Relabel all" if verb == "relabel" else "Leave all out"
        word = "Leave out all but one of each" if found.kind == "copies" else word
        bar += button(f"{verb} {found.kind} all", word)
    bar += button("undo", "Undo")
    cases = "".join(
        card(found.kind, number, case, rows, standing, seen, colours) for number, case in shown
    )
    empty = "" if found.cases or found.skipped else '<p class="jp-empty">None found.</p>'
    return (
        f"<h2>{safe(found.title)}</h2>{notes}{empty}"
        f'<div class="jp-clean-bar">{bar}</div><div class="jp-clean-cases">{cases}</div>{pager(*place)}'
    )


def card(
    kind: str,
    number: int,
    case: Case,
    rows: dict[str, Row],
    standing: Standing,
    seen: Seen,
    colours: dict[str, str],
) -> str:
    """The images of a case, why it is one, and what may be done; what was done is said on it."""
    pictures = "".join(
        one_image(name, rows[name], standing, seen, colours)
        if name in rows
        else f'<div class="jp-clean-file">{safe(name)}</div>'
        for name in case.ids[:SHOWN]
    )
    more = len(case.ids) - SHOWN
    rest = f'<p class="jp-clean-why">and {more:,} more</p>' if more > 0 else ""
    actions = ""
    if any(name in rows for name in case.ids):
        if kind == "labels":
            actions += button(f"relabel {kind} {number}", f"Relabel “{case.label}”")
        words = "Leave out all but the first" if kind == "copies" else "Leave out"
        words = "Leave out of training" if kind == "leaks" else words
        actions += button(f"leave {kind} {number}", words) + button(
            f"tag {kind} {number}", VERBS["tag"]
        )
    wide = " jp-clean-wide" if len(case.ids) > 1 else ""
    return (
        f'<article class="jp-clean-case{wide}"><div class="jp-clean-pictures">{pictures}</div>{rest}'
        f'<p class="jp-clean-why">{safe(case.why)}</p><div class="jp-clean-actions">{actions}</div></article>'
    )


def one_image(name: str, row: Row, standing: Standing, seen: Seen, colours: dict[str, str]) -> str:
    told = []
    if name in standing.left_out:
        told.append("left out")
    if name in standing.labels:
        told.append(f"now “{standing.labels[name]}”")
    told += sorted(standing.tags.get(name, ()))
    marks = "".join(f'<em class="jp-clean-mark">{safe(one)}</em>' for one in told)
    return (
        f'<button type="button" class="jp-clean-image" data-id="look {safe(name)}" '
        f'title="{safe(name)}: open it in Search"><span class="jp-frame">{picture(row, seen)}</span>'
        f'<span class="jp-clean-name">{safe(file_name(row))}</span>'
        f"{label_chip(row.label, colours)}{marks}</button>"
    )


def button(told: str, words: str) -> str:
    return f'<button type="button" class="jp-clean-button" data-id="{safe(told)}">{safe(words)}</button>'


def pager(page: int, pages: int) -> str:
    if pages < 2:
        return ""
    return (
        f'<div class="jp-clean-bar">{button(f"page {page - 1}", "← Back")}'
        f"<span>{page + 1:,} of {pages:,}</span>"
        f"{button(f'page {page + 1}', 'Next →')}</div>"
    )
