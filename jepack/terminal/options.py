"""What the value of an option may be, told before any work: ranges, addresses, places to write to.

Each function is for typer's `callback`: it gives the value back, or ends the command with exit code 2.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from jepack.client import check_address
from jepack.decoding import FITS
from jepack.disk import obstacle
from jepack.terminal.drawing import PICTURES

SIDE = 65_536  # px, of a picture or a window; no decoder makes larger ones
# Help of --url: the same in every command that asks one.
ENDPOINT = (
    "Endpoint of `jepack serve`: host:port (gRPC), or http(s)://... with the key in JEPACK_KEY."
)
SEED = 1 << 40  # torch takes 64 bits, and a step's seed is a multiple of it


@dataclass(frozen=True)
class Limit:
    """Numbers from `low` to `high`; `above` and `below` say that the end itself is left out."""

    low: float
    high: float
    above: bool = False
    below: bool = False
    whole: bool = False

    def holds(self, value: Any) -> bool:
        """Whether it is a number of this kind in the range; NaN and infinity never are."""
        kind = numbers.Integral if self.whole else numbers.Real
        if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value):
            return False
        value = float(value)
        return (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        kind = "a whole number in" if self.whole else "in"
        ends = (
            f"{'(' if self.above else '['}{self.low:g}, {self.high:g}{')' if self.below else ']'}"
        )
        return f"{kind} {ends}"


def whole(low: int, high: int) -> Limit:
    return Limit(low, high, whole=True)


def positive(high: float) -> Limit:
    return Limit(0, high, above=True)


SHARE = Limit(0, 1)
SECONDS = positive(1e6)
GIGABYTES = Limit(0, 1e9)


def within(limit: Limit) -> Callable[[Any], Any]:
    """A number in the range. click's own FloatRange lets NaN pass."""

    def check(value: Any) -> Any:
        if value is not None and not limit.holds(value):
            raise typer.BadParameter(f"must be {limit}, found {value}")
        return value

    return check


def fit(value: str | None) -> str | None:
    """How an image fills the square; None where nobody said it."""
    if value is not None and value not in FITS:
        raise typer.BadParameter(f"must be {' or '.join(FITS)}, found {value}")
    return value


def address(value: str | None) -> str | None:
    """Of an endpoint, over gRPC or HTTP (jepack.client.check_address); None where none was named."""
    if value is not None:
        check_address(value)
    return value


def addresses(value: list[str] | None) -> list[str] | None:
    """As `address`, of each."""
    for one in value or ():
        check_address(one)
    return value


def file_to_write(value: Any) -> Any:
    """The path of a file that can be made or replaced where it is."""
    return writable(value, folder=False)


def folder_to_write(value: Any) -> Any:
    """The path of a folder that can be made, or is there already."""
    return writable(value, folder=True)


def picture_to_write(value: Any) -> Any:
    """As `file_to_write`, with an ending that says which kind of picture."""
    if value is not None and Path(value).suffix.lower() not in PICTURES:
        raise typer.BadParameter(f"{value} must end in {', '.join(PICTURES)}")
    return file_to_write(value)


def writable(value: Any, *, folder: bool) -> Any:
    reason = None if value is None else obstacle(Path(value), folder=folder)
    if reason:
        raise typer.BadParameter(f"{value} cannot be written: {reason}. Choose another place")
    return value
