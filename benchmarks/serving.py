"""What serving costs: the same graph and JPEGs bare in a loop, through Triton, the gateway and LitServe.

    python -m benchmarks.photographs photos
    python -m benchmarks.serving photos BUNDLE [BUNDLE ...] [--litserve VENV/bin/python]   (8 minutes each)

All servers run; rows are measured in turn, round after round, so that a machine that slows down slows each,
and medians are told. The callers are a process of their own (benchmarks/load.py) whose time is not in
"CPU ms"; the pace is up to the last answer.

"ratio" is the pace against the better of the two bare rows of its round. Who runs in more processes gets more
of a machine that others use too, so beside it stands "cpu ratio", which they change little: the bare row's
processor time an image by this one's, the pace that is left on cores that are always busy. LitServe
(benchmarks/litserve_app.py) has the same graph and decoder in a worker a core.
`--other "--threads 1"` tries options beside the
defaults.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import psutil
from rich.console import Console
from rich.table import Table

from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.decoding import preprocess
from jepack.files import write_json
from jepack.machine import HOST, loopback
from jepack.machine.threads import cores

OUT = Path(__file__).parent / "results" / "serving.json"
BATCH = 16
START_S = 120.0
OTHER = "Triton with --other"
BARE = ("bare loop, all threads in the encoder", "bare loop, a thread a core")


@dataclass(frozen=True)
class Row:
    """Callers of a server: `way` of benchmarks/load.py, images a request, requests at once."""

    server: str
    way: str
    batch: int
    clients: int

    @property
    def name(self) -> str:
        return f"{self.server}, {self.way}, {self.batch} a request, {self.clients} callers"


ROWS = (
    Row("Triton", "grpc", 1, 1),
    Row("Triton", "grpc", 1, 8),
    Row("Triton", "grpc", 1, 32),
    Row("Triton", "grpc", BATCH, 4),
    Row("gateway", "base64", 1, 16),
    Row("gateway", "base64", BATCH, 4),
    Row("gateway", "binary", BATCH, 4),
    Row("gateway", "multipart", BATCH, 4),
    Row("embedded", "base64", BATCH, 4),
    Row("LitServe", "base64", 1, 32),
    Row("LitServe", "base64", BATCH, 4),
    Row(OTHER, "grpc", 1, 32),
    Row(OTHER, "grpc", BATCH, 4),
)


def bare(bundle: Bundle, files: list[Path], *, threads: int, loops: int) -> Callable[[float], int]:
    """Decode and encode in this process for some seconds, as short as it can be written; images done."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        str(bundle.onnx()), options, providers=["CPUExecutionProvider"]
    )
    images = [file.read_bytes() for file in files]

    def loop(first: int, end: float) -> int:
        for done in count(0, BATCH):
            if time.perf_counter() > end:
                return done
            chosen = [images[(first + done + n) % len(images)] for n in range(BATCH)]
            crops = [preprocess.load(one, bundle.preprocessing) for one in chosen]
            session.run(["pooler_output", "projection"], {"pixel_values": np.stack(crops)})
        raise AssertionError("never ends by itself")

    def work(seconds: float) -> int:
        end = time.perf_counter() + seconds
        with ThreadPoolExecutor(loops) as pool:
            return sum(pool.map(loop, range(loops), [end] * loops))

    return work


def processes_of(leader: int | None) -> list[psutil.Process]:
    """Of the server; this process where there is none."""
    one = psutil.Process(leader)
    return [one] if leader is None else [one, *one.children(recursive=True)]


def cpu_of(processes: list[psutil.Process]) -> float:
    """Processor seconds."""
    total = 0.0
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            total += one.cpu_times().user + one.cpu_times().system
    return total


def cpu_seconds(leader: int | None) -> float:
    """CPU time of this process and of the server's."""
    return cpu_of([psutil.Process(), *(processes_of(leader) if leader is not None else [])])


def memory_mb(processes: list[psutil.Process]) -> float:
    """Resident, what processes share counted once (PSS)."""
    total = 0
    for one in processes:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += one.memory_full_info().pss
    return total / 2**20


@contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[str]]:
    """A server in a process of its own, ended as a user ends it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
        try:
            yield process
        finally:
            below = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            for one in (*below, process):
                with suppress(psutil.NoSuchProcess, ProcessLookupError):
                    one.kill()


@contextmanager
def jepack_serve(bundle: Bundle, work: Path, *options: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """`jepack serve` as it is: (its process, what it tells of itself)."""
    name = "-".join(options).strip("-") or "triton"
    command = [sys.executable, "-m", "jepack", "serve", str(bundle.folder), "--json",
               "--http", f"{HOST}:0", *options]  # fmt: skip
    if "--engine" not in options:
        command += ["--port", "0", "--http-port", "0", "--metrics-port", "0",
                    "--log-file", str(work / f"{name}-triton.log")]  # fmt: skip
    log = work / f"{name}.log"
    with running(command, log) as process:
        assert process.stdout is not None
        told = process.stdout.readline()
        if not told:
            raise SystemExit(f"jepack serve ended: {log.read_text()[-2000:]}")
        yield process.pid, json.loads(told)


@contextmanager
def litserve(python: Path, bundle: Bundle, work: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with loopback.hold(0) as held:  # let go of at once; should another take it, LitServe says so
        port = held.getsockname()[1]
    command = [str(python), "-m", "benchmarks.litserve_app", str(bundle.folder.resolve())]
    command += ["--port", str(port), "--workers", str(cores()), "--threads", "1"]
    with running(command, work / "litserve.log") as process:
        url, end = f"http://{HOST}:{port}", time.monotonic() + START_S
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            with suppress(OSError), direct.open(f"{url}/health", timeout=5) as answer:
                if answer.status == 200:
                    break
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"LitServe: {(work / 'litserve.log').read_text()[-2000:]}")
            time.sleep(0.5)
        yield process.pid, {"gateway": url}


def through(row: Row, url: str, pid: int, photos: Path, seconds: float) -> dict[str, float]:
    """One measurement: the callers from beginning to end."""
    command = [sys.executable, "-m", "benchmarks.load", url, str(photos), "--way", row.way]
    command += ["--batch", str(row.batch), "--clients", str(row.clients)]
    processes = processes_of(pid)
    before = cpu_of(processes)
    done = subprocess.run(
        [*command, "--seconds", str(seconds)], check=True, capture_output=True, text=True
    )
    found = json.loads(done.stdout)
    good, images = found["answers"].get("200", []), max(found["images"], 1)
    return {
        "images_per_s": found["images"] / found["seconds"],
        "p50_ms": 1000 * float(np.percentile(good, 50)) if good else 0.0,
        "p99_ms": 1000 * float(np.percentile(good, 99)) if good else 0.0,
        "cpu_ms_per_image": 1000 * (cpu_of(processes) - before) / images,
        "client_cpu_ms_per_image": 1000 * found["client_cpu_s"] / images,
        "memory_mb": memory_mb(processes),
        "not_200": sum(len(v) for status, v in found["answers"].items() if status != "200"),
    }


def in_a_loop(work: Callable[[float], int], seconds: float) -> dict[str, float]:
    me = processes_of(None)
    before, began = cpu_of(me), time.perf_counter()
    images = work(seconds)
    took = time.perf_counter() - began
    return {
        "images_per_s": images / took,
        "cpu_ms_per_image": 1000 * (cpu_of(me) - before) / images,
        "memory_mb": memory_mb(me),
    }


def measure(
    bundle: Bundle, photos: Path, asked: argparse.Namespace
) -> Iterator[dict[str, dict[str, float]]]:
    """The rows of one round after another."""
    files = sorted(photos.iterdir())
    with ExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory()))
        pid, told = stack.enter_context(jepack_serve(bundle, work))
        servers = {"Triton": (pid, told["url"]), "gateway": (pid, told["gateway"])}
        if asked.other:
            pid, told = stack.enter_context(jepack_serve(bundle, work, *asked.other.split()))
            servers[OTHER] = (pid, told["url"])
        pid, told = stack.enter_context(jepack_serve(bundle, work, "--engine", "embedded"))
        servers["embedded"] = (pid, told["gateway"])
        if asked.litserve is not None:
            pid, told = stack.enter_context(litserve(asked.litserve, bundle, work))
            servers["LitServe"] = (pid, told["gateway"])
        loops = (
            bare(bundle, files, threads=cores(), loops=1),
            bare(bundle, files, threads=1, loops=cores()),
        )
        for _ in range(asked.rounds):
            rows = dict(zip(BARE, (in_a_loop(loop, asked.seconds) for loop in loops), strict=True))
            best = max(rows.values(), key=lambda row: row["images_per_s"])
            for row in ROWS:
                if row.server in servers:
                    pid, url = servers[row.server]
                    rows[row.name] = through(row, url, pid, photos, asked.seconds)
            for values in rows.values():
                values["ratio"] = values["images_per_s"] / best["images_per_s"]
                values["cpu_ratio"] = best["cpu_ms_per_image"] / values["cpu_ms_per_image"]
            yield rows


def medians(rounds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    return {
        name: {key: statistics.median(one[name][key] for one in rounds) for key in row}
        | {"ratios": [round(one[name]["ratio"], 3) for one in rounds]}
        for name, row in rounds[0].items()
    }


def show(console: Console, title: str, rows: dict[str, Any]) -> None:
    columns = {"images_per_s": 1, "ratio": 2, "cpu_ratio": 2, "p50_ms": 0, "p99_ms": 0, "cpu_ms_per_image": 1,
               "memory_mb": 0, "not_200": 0}  # fmt: skip
    table = Table("", *(name.replace("_", " ") for name in columns), title=title)
    for name, row in rows.items():
        table.add_row(name, *(f"{row[c]:.{n}f}" if c in row else "" for c, n in columns.items()))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, help="folder of nothing but JPEGs")
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument(
        "--litserve", type=Path, help="a Python with litserve and what jepack needs"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a row and round")
    parser.add_argument("--other", default="", help='options of a second Triton: "--threads 1"')
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the servers end too
    console = Console(width=150)
    result: dict[str, Any] = {
        "cores": cores(), "machine": platform.machine(), "rounds": asked.rounds,
        "seconds": asked.seconds, "other": asked.other, "bundles": {},
        "files": len(list(asked.photos.iterdir())),
        "mean_bytes": round(statistics.mean(f.stat().st_size for f in asked.photos.iterdir())),
    }  # fmt: skip
    for folder in asked.bundles:
        bundle, rounds = bundles.load(folder), list[dict[str, dict[str, float]]]()
        busy = [round(os.getloadavg()[0], 1)]
        for one in measure(bundle, asked.photos, asked):
            rounds.append(one)
            busy.append(round(os.getloadavg()[0], 1))
            size, rows = bundle.preprocessing.size, medians(rounds)
            result["bundles"][bundle.name] = {
                "size": size, "rounds": len(rounds), "load_average": busy, "rows": rows
            }  # fmt: skip
            write_json(asked.out, result)
        show(console, f"{bundle.name}, {size} px, load average {min(busy)} to {max(busy)}", rows)


if __name__ == "__main__":
    main()
