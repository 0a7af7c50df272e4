"""What commands are told and show: options with ranges, name=value, progress, pictures."""

from jepack.terminal.assignments import assigned, names_of, parsed, values_of
from jepack.terminal.options import SEED, SHARE, SIDE, Limit, positive, whole
from jepack.terminal.progress import counter

__all__ = [
    "SEED",
    "SHARE",
    "SIDE",
    "Limit",
    "assigned",
    "counter",
    "names_of",
    "parsed",
    "positive",
    "values_of",
    "whole",
]
