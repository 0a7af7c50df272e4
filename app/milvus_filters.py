"""Which rows are meant, in Milvus's words. A manifest's columns are keys of one JSON field, `said`."""

from __future__ import annotations

import json
import sys

from app.filters import Compare, Every, Expression, OneOf

SIGNS = {"is": "==", "not": "!=", "from": ">=", "to": "<="}  # of a Condition
FIELDS = ("key", "label")  # fields of their own; a label "" is none


def rendered(one: Expression) -> str:
    """ "" where every row is meant."""
    match one:
        case Every(parts):
            return " and ".join(map(rendered, parts))
        case OneOf(key, values):
            return f"{key} in [{', '.join(map(literal, values))}]"
        case Compare(key, sign, value):
            asked = f"{field(key)} {SIGNS[sign]} {literal(value)}"
            return (
                f"({asked} and {something(key, value)})"
                if key in FIELDS or sign == "not"
                else asked
            )


def field(key: str) -> str:
    return key if key in FIELDS else f'said["{key}"]'


def something(key: str, value: str | float) -> str:
    """That a row says anything: a JSON key that is missing is unequal to everything, for a server."""
    if key in FIELDS:
        return f'{key} != ""'
    return f"{field(key)} >= {literal('' if isinstance(value, str) else -sys.float_info.max)}"


def literal(value: str | float) -> str:
    """A text in double quotes with what would end it escaped; a number as it is read back whole."""
    return json.dumps(value, ensure_ascii=False)
