"""How many processes and threads Triton's CPU model should have: the same JPEGs through several servers.

    python -m benchmarks.processes BUNDLE PHOTOS [--rounds 5]                  (3 minutes)

Rounds alternate between the servers, which all run, so that a busy machine is busy for each. Requests come as
`jepack embed` sends them, 16 images and four requests on their way, and as single images from 16 callers.
"""

from __future__ import annotations

import statistics
import sys
import time
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.serving import cpu_seconds
from jepack import bundle as bundles
from jepack.client import Client
from jepack.errors import JepackError
from jepack.files import write_json
from jepack.machine.threads import cores
from jepack.sources import find_images
from serving.models import RepositoryConfig
from serving.server import TritonServer

OUT = Path(__file__).parent / "results" / "processes.json"
ASKED = {"16 a request": (16, 4), "1 a request": (1, 16)}  # (batch size, concurrency)


def settings() -> list[tuple[int, int]]:
    """(processes, threads of each)."""
    return list(dict.fromkeys([(1, cores()), (2, cores()), (cores(), 1), (2 * cores(), 1)]))


def main(
    bundle: Annotated[Path, typer.Argument(help="Exported bundle.")],
    photos: Annotated[Path, typer.Argument(help="Folder of JPEGs.")],
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = OUT,
    images: Annotated[int, typer.Option(help="Images per round and server.")] = 256,
    rounds: Annotated[int, typer.Option(help="Rounds; medians are reported.")] = 5,
) -> None:
    """Compare numbers of processes and threads on this machine's CPU.

    Example: python -m benchmarks.processes runs/quickstart/bundle photos/
    """
    opened = bundles.load(bundle)
    files = list(islice(cycle(one.path for one in find_images(photos)), images))
    found: dict[tuple[int, int, str], list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        sides: dict[tuple[int, int], tuple[TritonServer, Client]] = {}
        for processes, threads in settings():
            config = RepositoryConfig(processes=processes, threads=threads)
            ports: dict[str, Any] = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
            server = stack.enter_context(
                TritonServer(opened, **ports, config=config, start_timeout_s=300)
            )
            client = stack.enter_context(Client(server.url, timeout_s=300))
            sides[processes, threads] = server, client
        for number in range(rounds + 1):
            for side, (server, client) in sides.items():
                for how, (batch, concurrency) in ASKED.items():
                    cpu, start = cpu_seconds(server.pid), time.perf_counter()
                    client.embed(files, batch_size=batch, concurrency=concurrency)
                    seconds = time.perf_counter() - start
                    spent = 1000 * (cpu_seconds(server.pid) - cpu) / images
                    if number > 0:  # the first round warms up
                        found.setdefault((*side, how), []).append((images / seconds, spent))
    report(found, out, {
        "bundle": opened.name, "images": images, "rounds": rounds, "cores": cores(),
    })  # fmt: skip


def report(
    found: dict[tuple[int, int, str], list[tuple[float, float]]], out: Path, setting: dict[str, Any]
) -> None:
    table = Table(
        "processes", "threads", "", "images/s", "CPU ms/image", "pace", title=str(setting)
    )
    rows, first = [], settings()[0]
    for (processes, threads, how), pairs in found.items():
        base = [pace for pace, _ in found[first[0], first[1], how]]
        row = {
            "processes": processes, "threads": threads, "asked": how,
            "images_per_s": statistics.median(pace for pace, _ in pairs),
            "cpu_ms_per_image": statistics.median(cpu for _, cpu in pairs),
            "pace": statistics.median(p / one for (p, _), one in zip(pairs, base, strict=True)),
        }  # fmt: skip
        rows.append(row)
        table.add_row(
            str(processes), str(threads), how, f"{row['images_per_s']:.1f}",
            f"{row['cpu_ms_per_image']:.2f}", f"{row['pace']:.2f}",
        )  # fmt: skip
    Console().print(table)
    write_json(out, {**setting, "rows": rows})


if __name__ == "__main__":
    try:
        typer.run(main)
    except JepackError as problem:
        sys.exit(f"error: {problem}")
