"""SIGReg on a CPU beside busy loops: ours, fixed numbers of threads, and lightly's loss.

    pip install --no-deps --target FOLDER lightly==1.6.* lightly-utils
    python -m benchmarks.sigreg_busy --lightly FOLDER        (25 minutes on two cores)
    python -m benchmarks.sigreg_busy --shapes 1024x1024 --loops 2 --seconds 30

Forward and backward, one view, 64 dimensions, float32. "commands" is how jepack's commands run: waiting
threads sleep. "library" is a program that loaded torch first: they spin. Contenders take turns in one
process; a figure is the median over rounds of a contender's mean time in its turn. "ours" chooses its
number of threads while it runs. Read the ratios: of the best fixed number's time to ours (the aim is 0.8),
and of lightly's time to ours with as many threads. lightly draws its directions inside the call.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.busy import beside
from jepack.files import write_json
from jepack.machine import threads

OUT = Path(__file__).parent / "results" / "sigreg_busy.json"
SHAPES = ("1024x1024", "256x1024", "1024x256", "1024x4096", "4096x1024")
DIMENSIONS = 64
FIRST_S = 25.0  # of ours before the clock runs: what is measured is how it goes on
SLICE_S = 0.5  # a contender's part of a round, or one call
LEAST_ROUNDS = 7
LIGHTLY_ROUNDS = 3  # its calls take long, and nothing is chosen by its times


def losses(slices: int, lightly: str) -> dict[str, Callable[[Any], Any]]:
    """Each contender's loss of [images, dimensions]."""
    from jepack.sigreg import random_directions, sigreg

    directions = random_directions(DIMENSIONS, slices, step=0)
    found: dict[str, Callable[[Any], Any]] = {"ours": lambda z: sigreg(z[None], directions)}
    if lightly:
        sys.path.append(lightly)
        from lightly.loss.lejepa_loss import SIGReg

        found["lightly"] = SIGReg(num_vectors=slices)
    return found


def measure(images: int, slices: int, seconds: float, lightly: str) -> dict[str, Any]:
    """Milliseconds of every contender, in this process."""
    import torch

    most = torch.get_num_threads()
    numbers = sorted({1, *(2**k for k in range(1, 10) if 2**k < most), most})
    z = torch.randn(images, DIMENSIONS)
    contenders = [
        (name, loss, number)
        for name, loss in losses(slices, lightly).items()
        for number in ([0, *numbers] if name == "ours" else numbers)
    ]
    times: dict[str, list[float]] = {}

    ours = [contender for contender in contenders if contender[0] == "ours"]

    def turn(name: str, loss: Callable[[Any], Any], number: int, slice_s: float) -> float:
        torch.set_num_threads(number or most)
        calls, started = 0, time.perf_counter()
        with threads.fixing(number):
            while not calls or time.perf_counter() - started < slice_s:
                leaf = z.clone().requires_grad_()
                loss(leaf).backward()
                calls += 1
        torch.set_num_threads(most)
        return (time.perf_counter() - started) / calls

    for contender in contenders:
        turn(*contender, slice_s=0)  # sets things up
    turn(*ours[0], slice_s=FIRST_S)
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < LEAST_ROUNDS or time.perf_counter() < end:
        for name, loss, number in contenders if rounds < LIGHTLY_ROUNDS else ours:
            times.setdefault(f"{name} {number or 'chosen'}", []).append(
                turn(name, loss, number, SLICE_S)
            )
        rounds += 1
    ms = {name: 1000 * statistics.median(values) for name, values in times.items()}
    best = min(ms[f"ours {number}"] for number in numbers)
    row = {"images": images, "slices": slices, "rounds": rounds, "ms": ms}
    row["ours_over_best_fixed"] = best / ms["ours chosen"]
    if lightly:
        row["faster_than_lightly"] = {str(n): ms[f"lightly {n}"] / ms[f"ours {n}"] for n in numbers}
        lightlys = [ms[f"lightly {n}"] for n in numbers]
        row["faster_than_lightlys_best"] = min(lightlys) / ms["ours chosen"]
    return row


def show(row: dict[str, Any]) -> None:
    times = "  ".join(f"{name} {value:.1f}" for name, value in row["ms"].items())
    print(
        f"{row['busy_loops']}  {row['started']:8}  {row['images']} x {row['slices']}  {times}  "
        f"of the best fixed {row['ours_over_best_fixed']:.2f}  faster than lightly "
        + " ".join(f"{n}: {x:.1f}" for n, x in row.get("faster_than_lightly", {}).items()),
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--loops", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="images x slices")
    parser.add_argument("--seconds", type=float, default=40, help="per row, of all contenders")
    parser.add_argument("--lightly", default="", help="folder it was installed in")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inner:
        (shape,) = options.shapes
        images, slices = map(int, shape.split("x"))
        print(json.dumps(measure(images, slices, options.seconds, options.lightly)))
        return
    rows = []
    print("busy loops, how started, images x slices: ms of each loss and number of threads, ratios")
    for shape in options.shapes:
        for loops in options.loops:
            for kind in ("commands", "library"):
                load = os.getloadavg()[0]
                inner = ["benchmarks.sigreg_busy", "--inner", "--shapes", shape]
                inner += ["--seconds", str(options.seconds), "--lightly", options.lightly]
                row = beside(loops, kind == "commands", *inner)
                load_after = os.getloadavg()[0]
                row |= {"busy_loops": loops, "started": kind, "load": [load, load_after]}
                rows.append(row)
                show(row)
                write_json(options.out, {"cores": threads.cores(), "rows": rows})


if __name__ == "__main__":
    main()
