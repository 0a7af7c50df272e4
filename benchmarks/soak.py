"""Hours in short: mixed load with garbage in it on both engines, and whether memory stays where it is.

    python -m benchmarks.photographs photos
    python -m benchmarks.soak photos BUNDLE --minutes 30 [--picture soak.png]

`jepack serve` with Triton and with the embedded engine run side by side. A third of the requests is garbage
(benchmarks/garbage.py), one in twenty hangs up in the middle; the rest are photographs in every dialect and,
to Triton, gRPC's. Memory of the gateway's process, tritonserver, the models' processes (of each what it
allocated and wrote) and what they share in /dev/shm is sampled.
After a third of the time, which warms up, a line is fitted: flat is a change of 5 % at most over the rest.
Read too: answers of 5xx, good images refused, requests without an answer.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.dialects import DIALECTS, ONE, request_in
from benchmarks.garbage import broken
from benchmarks.load import ANSWER_S, post
from benchmarks.serving import jepack_serve
from jepack import bundle as bundles
from jepack.client import AsyncClient
from jepack.errors import JepackError
from jepack.files import write_json

OUT = Path(__file__).parent / "results" / "soak.json"
FLAT = 0.05
GARBAGE, HANG_UP = 0.33, 0.05
WARM = 1 / 3  # of the time


class Counts:
    """What was asked of an engine, and how it was answered."""

    def __init__(self) -> None:
        self.good, self.garbage = Counter[str](), Counter[str]()
        self.hung_up = 0
        self.processes: set[int] = set()  # that were Triton or a model of it, at any time
        self.failures: list[str] = []

    def add(self, kind: str, status: str) -> None:
        (self.good if kind == "photographs" else self.garbage)[status] += 1
        wrong = status[0] not in "24" or (kind == "photographs" and status not in ("200", "429"))
        if wrong and len(self.failures) < 50:
            self.failures.append(f"{kind}: {status}")

    def to_json(self) -> dict[str, Any]:
        both = self.good + self.garbage
        return {
            "photographs": dict(self.good), "garbage": dict(self.garbage), "hung_up": self.hung_up,
            "processes": len(self.processes),
            "answers_5xx": sum(n for status, n in both.items() if status[0] == "5"),
            "no_answer": sum(n for status, n in both.items() if not status.isdigit()),
            "photographs_refused": sum(
                n for status, n in self.good.items() if status[0] == "4" and status != "429"
            ),
            "failures": self.failures,
        }  # fmt: skip


async def ask(place: str, request: bytes, hang_up: bool) -> str | None:
    """The status; None where we hung up ourselves."""
    host, port = place.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        if hang_up:
            writer.write(request[: len(request) // 2])
            await writer.drain()
            return None
        return str((await asyncio.wait_for(post(reader, writer, request), ANSWER_S))[0])
    except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
        return type(error).__name__
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def caller(
    url: str, images: list[bytes], seed: int, end: float, pause_s: float, counts: Counts
) -> None:
    place, draw = urlsplit(url).netloc, random.Random(seed)
    while time.monotonic() < end:
        kind, hang_up = "photographs", draw.random() < HANG_UP
        if draw.random() < GARBAGE:
            kind, request = broken(place, images, draw)
        else:
            way = draw.choice(list(DIALECTS))
            chosen = draw.sample(images, 1 if way in ONE else draw.randrange(1, 5))
            request = request_in(way, place, chosen)
        status = await ask(place, request, hang_up)
        if status is None:
            counts.hung_up += 1
        else:
            counts.add(kind, status)
        await asyncio.sleep(pause_s * draw.random() * 2)


async def caller_grpc(
    url: str, images: list[bytes], seed: int, end: float, pause_s: float, counts: Counts
) -> None:
    draw = random.Random(seed)
    async with AsyncClient(url, timeout_s=ANSWER_S) as client:
        while time.monotonic() < end:
            bad = draw.random() < GARBAGE
            chosen = [draw.randbytes(2000) if bad else draw.choice(images)]
            try:
                await client.embed(chosen)
                status = "200"
            except JepackError as error:
                refused = bad and type(error).__name__ == "DataError"
                status = "400" if refused else f"{type(error).__name__} {error!s:.80}"
            counts.add("file: random bytes" if bad else "photographs", status)
            await asyncio.sleep(pause_s * draw.random() * 2)


KINDS = {"tritonserver": "tritonserver", "triton_python_b": "models"}


def sizes_of(pid: int) -> dict[str, float]:
    """MB of a server's processes by what they are, and of the shared memory they exchange images through."""
    found = {"gateway": written_mb(psutil.Process(pid))}
    for one in models_of(pid):
        with suppress(psutil.NoSuchProcess):
            part = KINDS[one.name()[:15]]
            found[part] = found.get(part, 0.0) + written_mb(one)
    shared = [file.stat().st_blocks * 512 for file in Path("/dev/shm").glob(f"jepack-{pid}-*")]
    if shared:
        found["shared memory"] = sum(shared) / 2**20
    return found | {"all": sum(found.values())}


def models_of(pid: int) -> list[psutil.Process]:
    """tritonserver and its models; beside them is the guard, which only waits."""
    found = []
    for one in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if one.name()[:15] in KINDS:
                found.append(one)
    return found


def written_mb(process: psutil.Process) -> float:
    """Its anonymous pages, which no file backs: what it allocated and wrote, whoever else runs. Pages of
    libraries count as its own or not by who else has mapped them, and so change by others' end."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError as error:  # it ended between two looks
        raise psutil.NoSuchProcess(process.pid) from error
    size = status.partition("RssAnon:")[2].split()
    return float(size[0]) / 1024 if size else 0.0  # of one that has ended and is not waited for yet


def trend(samples: list[dict[str, float]], warm_s: float) -> dict[str, Any]:
    """A line through the samples after warming up: its slope, and its change over that time."""
    late = [one for one in samples if one["s"] >= warm_s]
    seconds = np.array([one["s"] for one in late])
    found: dict[str, Any] = {}
    for part in samples[-1]:
        if part == "s":
            continue
        slope, start = np.polyfit(seconds - seconds[0], [one[part] for one in late], 1)
        change = slope * (seconds[-1] - seconds[0]) / start
        found[part] = {
            "from_mb": round(float(start), 1), "slope_mb_per_min": round(60 * float(slope), 3),
            "change": round(float(change), 4), "flat": bool(abs(change) <= FLAT),
        }  # fmt: skip
    return found


async def soak(
    servers: dict[str, tuple[int, dict[str, Any]]], images: list[bytes], asked: argparse.Namespace
) -> tuple[dict[str, Counts], dict[str, list[dict[str, float]]]]:
    counts = {name: Counts() for name in servers}
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
    began = time.monotonic()
    end = began + 60 * asked.minutes
    callers = []
    for name, (_, told) in servers.items():
        for seed in range(asked.callers):
            common = (images, seed, end, asked.pause, counts[name])
            callers.append(caller(told["gateway"], *common))
            if seed == 0 and "url" in told:
                callers.append(caller_grpc(told["url"], *common))
    every = asyncio.gather(*callers)
    while time.monotonic() < end and not every.done():
        for name, (pid, _) in servers.items():
            counts[name].processes |= {one.pid for one in models_of(pid)}
            sizes = sizes_of(pid)
            samples[name].append({"s": time.monotonic() - began, **sizes})
        await asyncio.sleep(asked.every)
    await every
    return counts, samples


def draw_picture(path: Path, engines: dict[str, Any], warm_s: float) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(engines), figsize=(9, 3), sharex=True, squeeze=False)
    for axis, (name, row) in zip(axes[0], engines.items(), strict=True):
        minutes = [one["s"] / 60 for one in row["samples"]]
        for part in reversed(row["memory"]):
            axis.plot(minutes, [one[part] for one in row["samples"]], label=part)
        axis.axvline(warm_s / 60, color="grey", linewidth=0.8, linestyle=":")
        axis.set(title=name, xlabel="minutes", ylim=(0, None))
        axis.legend(fontsize=7, loc="center right")
    axes[0][0].set_ylabel("MB")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, help="folder of nothing but JPEGs")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--callers", type=int, default=4, help="of each engine")
    parser.add_argument("--pause", type=float, default=0.2, help="seconds between requests, mean")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between samples")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the servers end too
    bundle, console = bundles.load(asked.bundle), Console(width=130)
    images = [file.read_bytes() for file in sorted(asked.photos.iterdir())]
    with ExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory()))
        servers = {
            "Triton": stack.enter_context(jepack_serve(bundle, work)),
            "embedded": stack.enter_context(jepack_serve(bundle, work, "--engine", "embedded")),
        }
        counts, samples = asyncio.run(soak(servers, images, asked))
        alive = {name: psutil.pid_exists(pid) for name, (pid, _) in servers.items()}
    table = Table("", "part", "from MB", "MB/min", "change", "flat", title=f"{asked.minutes:g} min")
    engines: dict[str, Any] = {}
    for name in servers:
        memory = trend(samples[name], 60 * asked.minutes * WARM)
        engines[name] = {"alive": alive[name], **counts[name].to_json(), "memory": memory}
        console.print(name, engines[name])
        for part, row in memory.items():
            table.add_row(name, part, *(str(value) for value in row.values()))
        engines[name]["samples"] = [
            {key: round(value, 1) for key, value in one.items()} for one in samples[name]
        ]
    console.print(table)
    write_json(asked.out, {
        "minutes": asked.minutes, "callers": asked.callers, "pause_s": asked.pause,
        "bundle": bundle.name, "load_average": round(os.getloadavg()[0], 1), "engines": engines,
    })  # fmt: skip
    if asked.picture is not None:
        draw_picture(asked.picture, engines, 60 * asked.minutes * WARM)
    wrong = [name for name, row in engines.items()
             if row["answers_5xx"] or row["no_answer"] or not row["memory"]["all"]["flat"]]  # fmt: skip
    sys.exit(f"not as it should be: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()
