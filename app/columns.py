"""The columns that a manifest brings, as an index keeps them: of which kind, and of what values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

KINDS = ("category", "number", "date")
MOST_COLUMNS = 64  # further ones are not kept
MOST_VALUES = 50  # of a category that can be chosen from
NO_VALUE = ("", "nan", "none", "null", "na", "n/a", "nat")

Value = str | float | None


@dataclass(frozen=True)
class Column:
    """`kind`: "number" (float64), "date" (ISO 8601 text in UTC, which sorts by time) or "category" (text)."""

    name: str
    kind: str

    def value(self, text: str | None) -> Value:
        """What a cell says; None where it says nothing."""
        if text is None or text.strip().casefold() in NO_VALUE:
            return None
        if self.kind == "number":
            return number_of(text)
        return date_of(text) if self.kind == "date" else text.strip()

    def limit(self, text: str, sign: str) -> Value:
        """As `value`, for a condition: "to" a day means to its end."""
        day = self.kind == "date" and sign == "to" and len(text.strip()) == len("2026-11-27")
        return self.value(f"{text.strip()}T23:59:59" if day else text)


def columns_of(rows: Iterable[Mapping[str, str]]) -> list[Column]:
    """The columns of these rows, by name; of a kind when every cell that says something is of it."""
    cells: dict[str, set[str]] = {}
    for row in rows:
        for name, text in row.items():
            if text.strip().casefold() not in NO_VALUE:
                cells.setdefault(name, set()).add(text)
    names = sorted(cells)[:MOST_COLUMNS]
    return [Column(name, kind_of(cells[name])) for name in names]


def kind_of(texts: Iterable[str]) -> str:
    """A code like 007 is a category: it would lose its zeros as a number."""
    texts = list(texts)
    if all(number_of(text) is not None and not is_code(text) for text in texts):
        return "number"
    return "date" if all(date_of(text) is not None for text in texts) else "category"


def is_code(text: str) -> bool:
    digits = text.strip()
    return len(digits) > 1 and digits[0] == "0" and digits.isdigit()


def number_of(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def date_of(text: str) -> str | None:
    """A day or a moment of ISO 8601; one without a zone is taken as UTC."""
    try:
        moment = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        return moment.astimezone(timezone.utc).isoformat(timespec="seconds")
    except (ValueError, OverflowError):
        return None


def values_of(values: Sequence[Any]) -> list[tuple[str, int]]:
    """The values of a category with how many rows have each, by name; the most frequent MOST_VALUES."""
    counts = Counter(value for value in values if value is not None)
    return sorted(counts.most_common(MOST_VALUES))
