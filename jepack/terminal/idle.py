"""Options that would have no effect beside the others: refused, never passed over."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jepack.errors import ConfigError

WRITTEN = {"probes": "probe", "baselines": "baseline"}  # options called otherwise than in the code


def changed(command: Callable[..., Any], given: Mapping[str, Any]) -> list[str]:
    """The options that were given another value than the command's own, in its order; `given`: its `locals()`
    before it does anything."""
    options = inspect.signature(command).parameters.values()
    return [one.name for one in options if one.default not in (one.empty, given[one.name])]


def refuse(given: Iterable[str], names: Iterable[str], why: str) -> None:
    """Raise ConfigError where any of `names` was given, naming those, and why they have no effect."""
    idle = [one for one in given if one in set(names)]
    if idle:
        told = ", ".join(f"--{WRITTEN.get(one, one).replace('_', '-')}" for one in idle)
        raise ConfigError(
            f"{why}: no effect of {told}; leave {'it' if len(idle) == 1 else 'them'} out"
        )


def refuse_stride_alone(given: Iterable[str]) -> None:
    """`--tile-stride` is from window to window, which `--tile` cuts."""
    given = list(given)
    if "tile" not in given:
        refuse(given, ["tile_stride"], "no windows are cut without --tile")
