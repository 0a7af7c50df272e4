"""How fast each export is, beside PyTorch eager, on this machine."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from export.measure import Engine

BATCHES = (1, 8, 32)
ROUNDS = 7


def processor() -> str:
    """Its name, and the instructions that decide int8 and half precision."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    known = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8")
    flags = [flag for flag in known if flag in fields.get("flags", "").split()]
    return f"{fields.get('model name', platform.machine())} ({', '.join(flags)})"


def time_engines(
    engines: Mapping[str, Engine], images: npt.NDArray[np.uint8]
) -> dict[str, dict[str, float]]:
    """Milliseconds per batch of 1, 8 and 32 images: {engine: {"1": ms, ...}}.

    The engines take turns, so a machine that slows down slows all of them, and the fastest of the
    rounds counts: what disturbs only ever adds time. Preprocessing is not in it.
    """
    result: dict[str, dict[str, float]] = {name: {} for name in engines}
    for batch in BATCHES:
        feed = np.ascontiguousarray(np.resize(images, (batch, *images.shape[1:])))
        best = dict.fromkeys(engines, float("inf"))
        for engine in engines.values():
            engine(feed)  # the first run of a new batch size plans memory
        for _ in range(ROUNDS):
            for name, engine in engines.items():
                start = time.perf_counter()
                engine(feed)
                best[name] = min(best[name], time.perf_counter() - start)
        for name, seconds in best.items():
            result[name][str(batch)] = round(seconds * 1e3, 3)
    return result
