"""The form of what a search shows alone: the label, and the manifest's columns."""

from __future__ import annotations

from collections.abc import Sequence

from app.cards import safe
from app.columns import Column
from app.library import Library
from app.tabs.search.question import LABEL, Question


def filters(question: Question, library: Library) -> str:
    """What is shown alone, as a form that page.js turns into an address."""
    chosen = {(one.column, one.sign): one.value for one in question.only}
    labels = list(library.labels())
    fields = choice(LABEL, "Label", labels, chosen) if len(labels) > 1 else ""
    for column, values in library.columns().items():
        if column.kind != "category":
            fields += span(column, chosen)
        elif len(values) > 1:
            fields += choice(column.name, column.name, [name for name, _ in values], chosen)
    if not fields:
        return ""
    return f'<form class="jp-only" aria-label="Which neighbours to show">{fields}</form>'


def choice(
    column: str, title: str, values: Sequence[str], chosen: dict[tuple[str, str], str]
) -> str:
    """One value of a category, or that of the query, or another than that."""
    now = next(
        (f"{sign};{chosen[column, sign]}" for sign in ("is", "not") if (column, sign) in chosen), ""
    )
    noun = title if title != "Label" else "label"
    options = [("", "All"), ("is;", f"Same {noun}"), ("not;", f"Another {noun}")]
    return select(column, title, [*options, *((f"is;{value}", value) for value in values)], now)


def span(column: Column, chosen: dict[tuple[str, str], str]) -> str:
    """From and to, of a number or a date."""
    kind = {"number": 'type="number" step="any"', "date": 'type="date"'}[column.kind]
    ends = "".join(
        f'<input {kind} data-only="{safe(column.name)}" data-sign="{sign}" placeholder="{sign}" '
        f'aria-label="{safe(column.name)} {sign}" value="{safe(chosen.get((column.name, sign), ""))}">'
        for sign in ("from", "to")
    )
    return f'<span class="jp-span"><span>{safe(column.name)}</span>{ends}</span>'


def select(column: str, title: str, options: Sequence[tuple[str, str]], chosen: str) -> str:
    """One choice of SIGN;VALUE for a column."""
    items = "".join(
        f'<option value="{safe(value)}"{" selected" if value == chosen else ""}>{safe(said)}</option>'
        for value, said in options
    )
    return f'<label><span>{safe(title)}</span><select data-only="{safe(column)}">{items}</select></label>'
