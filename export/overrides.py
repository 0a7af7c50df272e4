"""Thresholds changed on the command line: `--threshold min_effective_rank=2 --threshold int8.recall=0.85`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from export.gates import Parity, Thresholds
from jepack.assignments import assigned
from jepack.errors import ConfigError


def names_of(limits: Thresholds) -> dict[str, float]:
    """Every threshold by the name a flag gives it, with its value."""
    plain = {f.name: getattr(limits, f.name) for f in fields(limits) if f.name != "parity"}
    parity = {
        f"{precision}.{f.name}": getattr(row, f.name)
        for precision, row in limits.parity.items()
        for f in fields(row)
    }
    return {**plain, **parity}


def parse(settings: Sequence[str]) -> Thresholds:
    """The table with these `name=value` changes. Raises ConfigError for an unknown name or a bad value."""
    limits = Thresholds()
    known = names_of(limits)
    kinds = {name: type(default) for name, default in known.items()}
    for name, value in assigned(settings, kinds, "--threshold", "threshold").items():
        if not math.isfinite(value) or (value < 0 and not name.endswith(".cosine")):
            raise ConfigError(
                f"--threshold {name} needs a number of 0 or more, found {value} (default {known[name]:g})"
            )
        limits = change(limits, name, value)
    return limits


def change(limits: Thresholds, name: str, value: Any) -> Thresholds:
    precision, dot, column = name.partition(".")
    if not dot:
        return replace(limits, **{name: value})
    row: Parity = replace(limits.parity[precision], **{column: value})
    return replace(limits, parity={**limits.parity, precision: row})


def changed(limits: Thresholds) -> dict[str, dict[str, float]]:
    """{name: {"value", "default"}} of every threshold that differs from the table's."""
    table = names_of(Thresholds())
    return {
        name: {"value": value, "default": table[name]}
        for name, value in names_of(limits).items()
        if value != table[name]
    }
