"""What a promise of N(0, I) is worth to a null: nulls of held-out images alone beside nulls that believe it.

    python -m benchmarks.drift_promise

Exact N(0, I) of 64 dimensions, moved by a fixed vector; and a domain that is not N(0, I) though few images
cannot tell (the mean of each dimension is off by .03), where believing must not alarm either. One false alarm
in 20,000 images.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jepack.files import write_json
from jepack.measures import Watcher, fit_null
from jepack.measures.null import BLOCK

RESULTS = Path(__file__).parent / "results"
DIMS, PER, LONGEST = 64, 20_000.0, 4096
SHIFTS = (1.0, 0.7, 0.5, 0.35)  # standard deviations, of one fixed direction
OFF = 0.03  # of every dimension


def measure(images: int, promised: bool, splits: int, replay: int, runs: int) -> dict[str, Any]:
    alarms, off, delays = 0, 0, {str(shift): list[float]() for shift in SHIFTS}
    for split in range(splits):
        rng = np.random.default_rng([images, split])
        x = rng.standard_normal((images, DIMS))
        null = fit_null(x, gaussian=promised, runs=runs, seed=split)
        near = fit_null(x + OFF, gaussian=promised, runs=runs, seed=split)
        for_one, for_other = (Watcher(n, images_per_false_alarm=PER) for n in (null, near))
        for _ in range(replay // 1024):
            ordinary = rng.standard_normal((1024, DIMS))
            for_one.add(ordinary)
            for_other.add(ordinary + OFF)
        alarms, off = alarms + for_one.report().alarms, off + for_other.report().alarms
        for shift in SHIFTS:
            stream = rng.standard_normal((2 * LONGEST, DIMS))
            stream[LONGEST:, 0] += shift
            z = null.z_scores(null.along(null.features(stream).astype(np.float32)))
            over = np.flatnonzero(np.nanmax(z, axis=(1, 2))[1:] > null.threshold(PER))
            delays[str(shift)].append(float((over[0] + 1) * BLOCK) if len(over) else float("inf"))
    median = {shift: float(np.median(values)) for shift, values in delays.items()}
    return {
        "held_out": images,
        "promised": promised,
        "delays": {s: value if np.isfinite(value) else None for s, value in median.items()},
        "false_alarms": alarms,
        "false_alarms_off": off,
        "allowed": splits * replay / PER,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--splits", type=int, default=8)
    parser.add_argument("--replay", type=int, default=32_768)
    parser.add_argument("--runs", type=int, default=64)
    args = parser.parse_args()
    rows = [
        measure(images, promised, args.splits, args.replay, args.runs)
        for images in args.images
        for promised in (False, True)
    ]
    table = Table(
        title="Median images until the alarm, by the shift in standard deviations", box=None
    )
    headings = ("held out", "N(0, I)", *map(str, SHIFTS), "false alarms", "mean off .03", "allowed")
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        cells = ["not seen" if v is None else f"{v:.0f}" for v in row["delays"].values()]
        counts = (row["false_alarms"], row["false_alarms_off"], f"{row['allowed']:.0f}")
        table.add_row(
            str(row["held_out"]), "promised" if row["promised"] else "", *cells, *map(str, counts)
        )
    Console(width=120).print(table)
    write_json(RESULTS / "drift_promise.json", {"rows": rows})


if __name__ == "__main__":
    main()
