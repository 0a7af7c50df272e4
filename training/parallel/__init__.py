"""Ranks and devices: what one process tells another, and how weights are spread over them."""

from training.parallel.batchnorm import synchronise_batchnorm
from training.parallel.compiling import compile_in_place
from training.parallel.devices import choose_device, exact_float32, upload
from training.parallel.distributed import (
    Ranks,
    Votes,
    alone,
    broadcast,
    no_buffer_sync,
    ranks,
    together,
)
from training.parallel.stopping import Stop, stop_signals

__all__ = [
    "Ranks",
    "Stop",
    "Votes",
    "alone",
    "broadcast",
    "choose_device",
    "compile_in_place",
    "exact_float32",
    "no_buffer_sync",
    "ranks",
    "stop_signals",
    "synchronise_batchnorm",
    "together",
    "upload",
]
