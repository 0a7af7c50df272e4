"""Thresholds changed on the command line: `--threshold min_effective_rank=2 --threshold int8.recall=0.85`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from export.gates import Parity, Thresholds
from jepack.errors import ConfigError
from jepack.terminal import assignments


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
    names = assignments.names_of(settings, "--threshold", "name=value")
    for name, setting in zip(names, settings, strict=True):
        assignments.check_name(name, known, "threshold")
        limits = change(
            limits, name, value_of(name, setting.partition("=")[2].strip(), known[name])
        )
    return limits


def value_of(name: str, text: str, default: float) -> float:
    try:
        value: float = assignments.typed(name, text, type(default))
    except ConfigError:
        value = math.nan
    if not math.isfinite(value) or (value < 0 and not name.endswith(".cosine")):
        kind = "whole number" if isinstance(default, int) else "number"
        raise ConfigError(
            f"--threshold {name} needs a {kind} of 0 or more, found {text!r} (default {default:g})"
        )
    return value


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
