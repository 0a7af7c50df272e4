"""Which rows are meant, in LanceDB's words."""

from __future__ import annotations

from collections.abc import Sequence

from app.filters import Compare, Every, Expression, OneOf, keys_of, meant
from app.store import Condition, IndexInfo

SIGNS = {"is": "=", "not": "!=", "from": ">=", "to": "<="}  # of a Condition


def id_in(ids: Sequence[str]) -> str:
    """A filter on ids."""
    return sql(OneOf("id", tuple(ids)))


def where(only: Sequence[Condition], info: IndexInfo) -> str:
    """The conditions in the engine's words; "" where there are none."""
    return sql(meant(only, info))


def sql(one: Expression) -> str:
    """A comparison with NULL is never true, so a row that says nothing is not found."""
    match one:
        case Every(parts):
            return " AND ".join(map(sql, parts))
        case OneOf(key, values):
            return f"{key} IN ({', '.join(map(literal, values))})"
        case Compare(key, sign, value):
            return f"{key} {SIGNS[sign]} {literal(value)}"


def literal(value: str | float) -> str:
    """A quote inside a text is doubled, so no id can end the string."""
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)


__all__ = ["id_in", "keys_of", "sql", "where"]
