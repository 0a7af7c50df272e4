"""Which rows are meant: a small tree that lance_filters and milvus_filters render in their engine's words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.columns import Column
from app.store import Condition, IndexInfo
from jepack.errors import ConfigError

SIGNS = ("is", "not", "from", "to")  # of a Condition: equal, another, at least, at most


@dataclass(frozen=True)
class Compare:
    """A field against a value; a row in which the field says nothing is not meant."""

    key: str  # "label", or a column's name in the engine
    sign: str  # of SIGNS
    value: str | float


@dataclass(frozen=True)
class OneOf:
    """A field that is one of these texts."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Every:
    """All parts at once; every row where there are none."""

    parts: tuple[Expression, ...] = ()


Expression = Compare | OneOf | Every


def keys_of(info: IndexInfo) -> dict[str, Column]:
    """{name in the engine: column}; a manifest's own names may be anything."""
    return {f"column_{at}": column for at, column in enumerate(info.columns)}


def meant(only: Sequence[Condition], info: IndexInfo) -> Every:
    """Rows that meet all conditions. Raises ConfigError for a condition on what the index does not hold."""
    return Every(tuple(compared(one, info) for one in only))


def compared(one: Condition, info: IndexInfo) -> Compare:
    if one.sign not in SIGNS:
        raise ConfigError(f"{one.sign!r} is no condition. Need one of {', '.join(SIGNS)}")
    if one.column == "label":
        return Compare("label", one.sign, one.value)
    for key, column in keys_of(info).items():
        if column.name == one.column:
            value = column.limit(one.value, one.sign)
            if value is None:
                raise ConfigError(f"{one.column}: {one.value!r} is no {column.kind}")
            return Compare(key, one.sign, value)
    known = ", ".join(["label", *(column.name for column in info.columns)])
    raise ConfigError(f"The index has no column {one.column!r}. It has: {known}")
