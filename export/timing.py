"""How fast each export is, beside PyTorch eager, on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from export.measure import Engine

BATCHES = (1, 8, 32)
ROUNDS = 7


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
