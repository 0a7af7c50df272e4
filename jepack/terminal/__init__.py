"""What commands are told and show: options with ranges, name=value, progress, pictures.

`assignments` needs pydantic and `drawing` a figure of matplotlib's: whoever has them imports the modules.
"""

from jepack.terminal.options import SEED, SHARE, SIDE, Limit, positive, whole
from jepack.terminal.progress import bar, counter

__all__ = [
    "SEED",
    "SHARE",
    "SIDE",
    "Limit",
    "bar",
    "counter",
    "positive",
    "whole",
]
