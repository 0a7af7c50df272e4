"""How many requests at once, and how many that wait: what the gateway's limits should be. Measured.

    python -m benchmarks.overload BUNDLE IMAGE                        (4 minutes)
    python -m benchmarks.overload BUNDLE IMAGE --engines embedded --seconds 2

For each engine and pair of limits, 1, 8, 32 and 128 callers post one image after another; who is told to come
again comes after a tenth of a second, sooner than it was told, which is the hard case, and once more after a
second, which is the least that it is told. Read: embeddings a
second, how long those took that were answered, how soon the others were told (aim: 0.1 s), and how the
slowest accepted compares with the slowest of one caller alone (aim: 2). Callers share the processor.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.files import write_json
from jepack.machine.threads import cores
from serving.gateway import EmbeddedEngine, Engine, Gateway, Limits, TritonEngine
from serving.server import TritonServer

OUT = Path(__file__).parent / "results" / "overload.json"
CALLERS = (
    (1, 0.1),
    (8, 0.1),
    (32, 0.1),
    (128, 0.1),
    (128, 1.0),
)  # and the seconds to their next try
# (requests at the engine, waiting)
PAIRS = {
    "embedded": [(1, 4), (cores(), 4), (cores(), 4 * cores()), (8, 32)],
    "triton": [(2, 8), (4, 16), (8, 16), (8, 32)],
}


@contextmanager
def engine_of(name: str, bundle: Bundle, work: Path) -> Iterator[Engine]:
    if name == "embedded":
        yield EmbeddedEngine(bundle)
        return
    with TritonServer(
        bundle, http_port=0, grpc_port=0, metrics_port=0, log_file=work / "log"
    ) as server:
        engine = TritonEngine(server.url, bundle)
        yield engine
        engine.close()


def load(
    url: str, image: Path, clients: int, seconds: float, pause_s: float = 0.1
) -> dict[str, Any]:
    """From a process of its own, see benchmarks/load.py."""
    command = [sys.executable, "-m", "benchmarks.load", url, str(image)]
    done = subprocess.run(
        [*command, "--clients", str(clients), "--seconds", str(seconds), "--pause", str(pause_s)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout))


def row_of(found: dict[str, Any]) -> dict[str, Any]:
    answers = found["answers"]
    good = answers.get("200", [])
    busy = answers.get("429", [])
    others = {name: len(v) for name, v in answers.items() if name not in ("200", "429")}
    return {
        "per_second": round(len(good) / found["seconds"], 1),
        **{f"p{q}_ms": percentile(good, q) for q in (50, 99)},
        "told_to_come_again": len(busy),
        **{f"told_p{q}_ms": percentile(busy, q) for q in (50, 99)},
        "others": others,
    }


def percentile(seconds: list[float], q: int) -> float | None:
    return round(float(np.percentile(seconds, q)) * 1000, 1) if seconds else None


def measure(engine: Engine, image: Path, workers: int, waiting: int, seconds: float) -> list[Any]:
    rows = []
    with Gateway(engine, port=0, limits=Limits(workers=workers, waiting=waiting)) as gateway:
        load(gateway.url, image, 2, 0.5)  # everything imported and warm
        for clients, pause_s in CALLERS:
            row = {"workers": workers, "waiting": waiting, "clients": clients, "again_s": pause_s}
            rows.append(row | row_of(load(gateway.url, image, clients, seconds, pause_s)))
    alone = rows[0]["p99_ms"]
    for row in rows:
        slowest = row["p99_ms"]
        row["p99_against_one"] = round(slowest / alone, 1) if slowest and alone else None
    return rows


def show(console: Console, name: str, rows: list[dict[str, Any]]) -> None:
    table = Table(title=f"{name}: one image a request")
    columns = [key for key in rows[0] if key != "others"]
    for column in (*columns, "others"):
        table.add_column(column.replace("_", " "), justify="right")
    for row in rows:
        others = " ".join(f"{status}:{count}" for status, count in row["others"].items())
        table.add_row(*(str(row[column]) for column in columns), others)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--engines", nargs="+", default=list(PAIRS), choices=list(PAIRS))
    parser.add_argument("--seconds", type=float, default=4.0)
    asked = parser.parse_args()
    bundle, console = bundles.load(asked.bundle), Console(width=150)
    found: dict[str, Any] = {
        "cores": cores(),
        "load_average": round(os.getloadavg()[0], 1),
        "image_bytes": asked.image.stat().st_size,
        "seconds": asked.seconds,
        "engines": json.loads(OUT.read_text())["engines"] if OUT.is_file() else {},
    }
    with TemporaryDirectory() as work:
        for name in asked.engines:
            with engine_of(name, bundle, Path(work)) as engine:
                rows: list[dict[str, Any]] = []
                for workers, waiting in dict.fromkeys(PAIRS[name]):
                    rows += measure(engine, asked.image, workers, waiting, asked.seconds)
            found["engines"][name] = rows
            show(console, name, rows)
    write_json(OUT, found)


if __name__ == "__main__":
    main()
