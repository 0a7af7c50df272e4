"""Training, embedding and SIGReg beside busy loops: ours against fixed numbers of threads.

    python -m benchmarks.busy                        (quiet, one and two busy loops; 12 minutes on two cores)
    python -m benchmarks.busy --loops 2 --seconds 90

"commands" is how jepack's commands run: waiting threads sleep. "library" is a program of somebody else's
in which torch was loaded first, so its waiting threads spin. In both, the same work is done in turns by ours
(which chooses the number of threads while it runs) and by every fixed number; read the ratio, which is the
speed of ours over that of the best fixed number in the same minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from jepack.files import write_json
from jepack.machine import threads

OUT = Path(__file__).parent / "results" / "busy.json"
LOOP = "import os, time\nparent = os.getppid()\nwhile os.getppid() == parent:\n  for _ in range(10**6): pass"
IMAGES = 32
FIRST_LOOK = 8  # turns of ours before the clock runs: what is measured is how it goes on
SLICE_S = 1.5  # a contender's part of a round
INNER = ("benchmarks.busy", "--inner", "--seconds")


def works() -> dict[str, Callable[[], Callable[[], None]]]:
    """What is timed; each gives a function that does one unit of it."""
    import torch

    from jepack.encoder import build_encoder
    from jepack.sigreg import random_directions, sigreg
    from training.parallel import Ranks
    from training.run import build_session, one_step
    from training.settings import override, quickstart
    from training.views import Views

    def training() -> Callable[[], None]:
        config = override(
            quickstart(), ["channels=3", "precision=fp32", f"images_per_step={IMAGES}"]
        )
        session = build_session(config, Ranks(0, 1, torch.device("cpu")))
        state = session.state
        state.total = 10_000
        images = torch.randn(config.global_views, IMAGES, 3, config.size, config.size)

        def step() -> None:
            one_step(config, session, Views(state.step, images, None), Ranks(0, 1, images.device))

        return step

    def embedding() -> Callable[[], None]:
        encoder = build_encoder("resnet10t", channels=3, size=96).eval()
        images = torch.randn(IMAGES, 3, 96, 96)

        def embed() -> None:
            with torch.inference_mode():
                encoder(images)

        return embed

    def regulariser() -> Callable[[], None]:
        z, directions = torch.randn(1, 1024, 64), random_directions(64, 1024, step=0)

        def both_ways() -> None:
            leaf = z.clone().requires_grad_()
            sigreg(leaf, directions).backward()  # type: ignore[no-untyped-call]

        return both_ways

    return {"training": training, "embedding": embedding, "sigreg": regulariser}


def measure(seconds: float) -> dict[str, Any]:
    """Units per second of each work, per contender, in this process."""
    return {name: compare(name, make(), seconds) for name, make in works().items()}


def compare(name: str, work: Callable[[], None], seconds: float) -> dict[str, Any]:
    import torch

    most = torch.get_num_threads()
    numbers = sorted({1, *(2**k for k in range(1, 10) if 2**k < most), most})
    contenders = ["ours", *map(str, numbers)]
    chooser = threads.Chooser(torch)

    def one(contender: str) -> float:
        started = time.perf_counter()
        if contender != "ours":
            torch.set_num_threads(int(contender))
            with threads.fixing(int(contender)):  # SIGReg would choose among as many
                work()
            torch.set_num_threads(most)
        elif name == "sigreg":  # it chooses by itself
            work()
        else:
            with chooser.turn():
                work()
        return time.perf_counter() - started

    for contender in contenders:
        one(contender)  # sets things up
    for _ in range(FIRST_LOOK):
        one("ours")
    spent, done = dict.fromkeys(contenders, 0.0), dict.fromkeys(contenders, 0)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for contender in contenders:
            part = time.perf_counter() + SLICE_S
            while time.perf_counter() < part:
                spent[contender] += one(contender)
                done[contender] += 1
    speed = {contender: done[contender] / spent[contender] for contender in contenders}
    best = max(speed[str(number)] for number in numbers)
    return {"per_s": speed, "ratio": speed["ours"] / best, "chosen": chooser.number}


def beside(loops: int, calm: bool, *command: str) -> Any:
    """What `python -m COMMAND` prints as JSON in its last line, beside so many busy loops."""
    environment = {
        k: v for k, v in os.environ.items() if k not in (*threads.CALM, "OMP_NUM_THREADS")
    }
    if calm:
        threads.calm(environment)
    with ExitStack() as running:
        for _ in range(loops):
            child = running.enter_context(subprocess.Popen([sys.executable, "-c", LOOP]))
            running.callback(child.kill)
        text = subprocess.run(
            [sys.executable, "-m", *command],
            env=environment, stdout=subprocess.PIPE, text=True, check=True,
        ).stdout  # fmt: skip
    return json.loads(text.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--loops", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=45, help="per work, of all contenders")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inner:
        print(json.dumps(measure(options.seconds)))
        return
    rows = []
    print("busy loops, how started, work: units/s of ours and of fixed numbers of threads, ratio")
    for loops in options.loops:
        for kind in ("commands", "library"):
            load = os.getloadavg()[0]
            found = beside(loops, kind == "commands", *INNER, str(options.seconds))
            for work, row in found.items():
                rows.append({"busy_loops": loops, "started": kind, "work": work, **row})
                speeds = "  ".join(f"{name} {speed:.3g}" for name, speed in row["per_s"].items())
                print(
                    f"{loops}  {kind:8}  {work:9}  {speeds}  ratio {row['ratio']:.2f}", flush=True
                )
            rows[-1]["load_before"] = load
            write_json(
                options.out, {"cores": threads.cores(), "seconds": options.seconds, "rows": rows}
            )


if __name__ == "__main__":
    main()
