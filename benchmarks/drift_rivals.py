"""Evidently and DataEval on the streams of benchmarks/drift.py. Runs in an environment of their own.

    python drift_rivals.py STREAMS.npz IMAGES_PER_FALSE_ALARM LONGEST [SIDE,SIDE]

Prints JSON: for each side and change the delays in images, None where no window alarmed.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

warnings.simplefilter("ignore")
WINDOWS = (64, 1024)
Statistic = Callable[[Any], float]  # of a window [W, D]; larger is further from the reference


def dataeval_ks(reference: Any) -> Statistic:
    """Largest Kolmogorov-Smirnov distance over the dimensions, which Bonferroni's rule looks at."""
    from dataeval.shift import DriftUnivariate

    detector = DriftUnivariate(method="ks").fit(reference)
    return lambda window: float(np.max(detector.predict(window).details["distances"]))


def dataeval_mmd(reference: Any) -> Statistic:
    from dataeval.shift import DriftMMD

    detector = DriftMMD(n_permutations=1).fit(reference)
    return lambda window: float(detector.predict(window).distance)


def evidently_model(reference: Any) -> Statistic:
    """Its default: how well a classifier tells window and reference apart (ROC AUC)."""
    return evidently("model", reference)


def evidently_mmd(reference: Any) -> Statistic:
    return evidently("mmd", reference)


def evidently(name: str, reference: Any) -> Statistic:
    import pandas as pd
    from evidently.legacy.metrics.data_drift import embedding_drift_methods as methods

    ask = {
        "model": lambda: methods.model(bootstrap=False),
        "mmd": lambda: methods.mmd(bootstrap=False),
    }[name]()
    frame = pd.DataFrame(reference)
    return lambda window: float(ask(pd.DataFrame(window), frame)[0])


SIDES = {
    "Evidently model": evidently_model,
    "Evidently MMD": evidently_mmd,
    "DataEval KS": dataeval_ks,
    "DataEval MMD": dataeval_mmd,
}


def run(streams: dict[str, Any], make: Any, size: int, per: float, longest: int) -> dict[str, Any]:
    delays: dict[str, list[float | None]] = {}
    start, images, alarms, ordinary = time.process_time(), 0, 0, 0
    for split in sorted({name.split("/")[0] for name in streams}):
        statistic = make(streams[f"{split}/reference"].astype(np.float32))
        figures = [statistic(w) for w in cut(streams[f"{split}/ordinary"], size)]
        # Where the quantile lies beyond the windows there are, the largest of them is the threshold.
        threshold = float(np.quantile(figures, max(0.0, 1 - size / per)))
        unchanged = cut(streams[f"{split}/unchanged"], size)
        alarms += sum(bool(statistic(window) > threshold) for window in unchanged)
        ordinary += size * len(unchanged)
        images += size * (len(figures) + len(unchanged))
        for name in [n for n in streams if n.startswith(f"{split}/")]:
            change = name.split("/")[1]
            if change in ("reference", "ordinary", "unchanged"):
                continue
            stream = streams[name]
            for trial in range(len(stream) // longest):
                part, seen = stream[trial * longest : (trial + 1) * longest], None
                for number, window in enumerate(cut(part, size), start=1):
                    images += size
                    if statistic(window) > threshold:
                        seen = number * size
                        break
                delays.setdefault(change, []).append(seen)
    spent = (time.process_time() - start) / images * 1e6
    return {"delays": delays, "alarms": alarms, "images": ordinary, "microseconds": spent}


def cut(stream: Any, size: int) -> list[Any]:
    stream = stream.astype(np.float32)
    return [stream[i : i + size] for i in range(0, len(stream) - size + 1, size)]


def main() -> None:
    with np.load(sys.argv[1]) as found:
        streams = dict(found)
    told = {}
    for side in sys.argv[4].split(",") if sys.argv[4:] and sys.argv[4] else SIDES:
        for size in WINDOWS:
            told[f"{side}, {size}"] = run(
                streams, SIDES[side], size, float(sys.argv[2]), int(sys.argv[3])
            )
    print(json.dumps(told))


if __name__ == "__main__":
    main()
