"""Which rows are meant, in LanceDB's words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from app.columns import Column
from app.store import Condition, IndexInfo
from jepack.errors import ConfigError

SIGNS = {"is": "=", "not": "!=", "from": ">=", "to": "<="}  # of a Condition


def keys_of(info: IndexInfo) -> dict[str, Column]:
    """{name in the engine: column}; a manifest's own names may be anything."""
    return {f"column_{at}": column for at, column in enumerate(info.columns)}


def id_in(ids: Sequence[str]) -> str:
    """A filter on ids; a quote inside one is doubled, so no id can end the string."""
    return "id IN ({})".format(", ".join(map(quoted, ids)))


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def where(only: Sequence[Condition], info: IndexInfo) -> str:
    """The conditions in the engine's words; "" where there are none."""
    return " AND ".join(map(partial(one_where, info=info), only))


def one_where(one: Condition, info: IndexInfo) -> str:
    sign = SIGNS.get(one.sign)
    if sign is None:
        raise ConfigError(f"{one.sign!r} is no condition. Need one of {', '.join(SIGNS)}")
    if one.column == "label":
        return f"label {sign} {quoted(one.value)}"
    for key, column in keys_of(info).items():
        if column.name == one.column:
            value = column.limit(one.value, one.sign)
            if value is None:
                raise ConfigError(f"{one.column}: {one.value!r} is no {column.kind}")
            return f"{key} {sign} {quoted(value) if isinstance(value, str) else repr(value)}"
    known = ", ".join(["label", *(column.name for column in info.columns)])
    raise ConfigError(f"The index has no column {one.column!r}. It has: {known}")
