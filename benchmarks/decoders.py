"""How many decoding processes a server should have: the same JPEGs through real Triton with 1, 2 and 4.

    python -m benchmarks.decoders BUNDLE PHOTOS --out decoders.json

Rounds alternate between the servers, which all run, so that a busy machine is busy for each. Requests come as
`jepack embed` sends them, 16 images and two requests on their way, and as single images from 16 callers.
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
from jepack.machine import threads as machine
from jepack.sources import find_images
from serving.models import RepositoryConfig
from serving.server import TritonServer

COUNTS = (1, 2, 4)
ASKED = {"16 a request": (16, 2), "1 a request": (1, 16)}  # (batch size, concurrency)


def main(
    bundle: Annotated[Path, typer.Argument(help="Exported bundle.")],
    photos: Annotated[Path, typer.Argument(help="Folder of JPEGs.")],
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("decoders.json"),
    images: Annotated[int, typer.Option(help="Images per round and server.")] = 128,
    rounds: Annotated[int, typer.Option(help="Rounds; medians are reported.")] = 5,
    threads: Annotated[int, typer.Option(help="CPU threads of the encoder.")] = 2,
) -> None:
    """Compare numbers of decoding processes on this machine's CPU.

    Example: python -m benchmarks.decoders runs/quickstart/bundle photos/
    """
    opened = bundles.load(bundle)
    files = list(islice(cycle(one.path for one in find_images(photos)), images))
    found: dict[tuple[int, str], list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        sides: dict[int, tuple[TritonServer, Client]] = {}
        for count in COUNTS:
            config = RepositoryConfig(threads=threads, decoders=count)
            ports: dict[str, Any] = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
            server = stack.enter_context(
                TritonServer(opened, **ports, config=config, start_timeout_s=300)
            )
            sides[count] = server, stack.enter_context(Client(server.url, timeout_s=300))
        for number in range(rounds + 1):
            for count, (server, client) in sides.items():
                for how, (batch, concurrency) in ASKED.items():
                    cpu, start = cpu_seconds(server.pid), time.perf_counter()
                    client.embed(files, batch_size=batch, concurrency=concurrency)
                    seconds = time.perf_counter() - start
                    spent = 1000 * (cpu_seconds(server.pid) - cpu) / images
                    if number > 0:  # the first round warms up
                        found.setdefault((count, how), []).append((images / seconds, spent))
    report(found, out, {
        "bundle": opened.name, "images": images, "rounds": rounds, "threads": threads,
        "cores": machine.cores(),
    })  # fmt: skip


def report(
    found: dict[tuple[int, str], list[tuple[float, float]]], out: Path, setting: dict[str, Any]
) -> None:
    table = Table("decoders", "", "images/s", "CPU ms/image", "pace against 1", title=str(setting))
    rows = []
    for (count, how), pairs in found.items():
        base = [pace for pace, _ in found[COUNTS[0], how]]
        row = {
            "decoders": count, "asked": how,
            "images_per_s": statistics.median(pace for pace, _ in pairs),
            "cpu_ms_per_image": statistics.median(cpu for _, cpu in pairs),
            "ratio": statistics.median(p / one for (p, _), one in zip(pairs, base, strict=True)),
        }  # fmt: skip
        rows.append(row)
        table.add_row(
            str(count), how, f"{row['images_per_s']:.1f}", f"{row['cpu_ms_per_image']:.2f}",
            f"{row['ratio']:.2f}",
        )  # fmt: skip
    Console().print(table)
    write_json(out, {**setting, "rows": rows})


if __name__ == "__main__":
    try:
        typer.run(main)
    except JepackError as problem:
        sys.exit(f"error: {problem}")
