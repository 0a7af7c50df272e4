"""What Triton costs: the same graph, files and threads bare in this process and through the server.

    python -m benchmarks.serving BUNDLE IMAGES --out serving.json

Rounds alternate, so a machine that slows down slows both. CPU time counts every process that works for
a side: the client's, the server's and its models'.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
import psutil
import typer
from rich.console import Console
from rich.table import Table

from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.client import Client
from jepack.decoding import preprocess
from jepack.errors import JepackError
from jepack.files import write_json
from jepack.sources import find_images
from serving.repository import RepositoryConfig
from serving.server import TritonServer

BATCH = 16


def bare(bundle: Bundle, threads: int) -> Callable[[list[Path]], None]:
    """Decode and encode in this process, as short as it can be written."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        str(bundle.onnx()), options, providers=["CPUExecutionProvider"]
    )

    def work(files: list[Path]) -> None:
        for start in range(0, len(files), BATCH):
            crops = [
                preprocess.load(path, bundle.preprocessing) for path in files[start : start + BATCH]
            ]
            session.run(None, {"pixel_values": np.stack(crops)})

    return work


def cpu_seconds(leader: int | None) -> float:
    """CPU time of this process and of the server's."""
    processes = [psutil.Process()]
    if leader is not None:
        server = psutil.Process(leader)
        processes += [server, *server.children(recursive=True)]
    return sum(one.cpu_times().user + one.cpu_times().system for one in processes)


def measure(
    work: Callable[[list[Path]], None], files: list[Path], leader: int | None
) -> tuple[float, float]:
    """(images per second, CPU milliseconds per image)."""
    cpu, start = cpu_seconds(leader), time.perf_counter()
    work(files)
    seconds = time.perf_counter() - start
    return len(files) / seconds, 1000 * (cpu_seconds(leader) - cpu) / len(files)


def main(
    bundle: Annotated[Path, typer.Argument(help="Exported bundle.")],
    data: Annotated[Path, typer.Argument(help="Folder of images.")],
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("serving.json"),
    images: Annotated[int, typer.Option(help="Images per round and side.")] = 192,
    rounds: Annotated[int, typer.Option(help="Rounds; medians are reported.")] = 5,
    threads: Annotated[int, typer.Option(help="CPU threads of the encoder.")] = 2,
) -> None:
    """Compare bare ONNX Runtime with Triton on this machine's CPU.

    Example: python -m benchmarks.serving runs/quickstart/bundle photos/
    """
    opened = bundles.load(bundle)
    files = list(islice(cycle(one.path for one in find_images(data)), images))
    config = RepositoryConfig(threads=threads)
    ports: dict[str, Any] = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
    with TritonServer(opened, **ports, config=config) as server, Client(server.url) as client:
        sides: dict[str, tuple[Callable[[list[Path]], None], int | None]] = {
            "bare onnxruntime": (bare(opened, threads), None),
            "Triton, 16 a request": (
                lambda files: void(client.embed(files, batch_size=16)),
                server.pid,
            ),
            "Triton, 1 a request": (
                lambda files: void(client.embed(files, batch_size=1, concurrency=16)),
                server.pid,
            ),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        with Console(stderr=True).status("measuring"):
            for number in range(rounds + 1):
                for name, (work, leader) in sides.items():
                    one = measure(work, files, leader)
                    if number > 0:  # the first round warms up
                        found[name].append(one)
    report(opened, found, out, {"images": images, "rounds": rounds, "threads": threads})


def void(result: object) -> None:
    del result


def report(
    bundle: Bundle, found: dict[str, list[tuple[float, float]]], out: Path, setting: dict[str, int]
) -> None:
    base = [pace for pace, _ in found["bare onnxruntime"]]
    table = Table("", "images/s", "CPU ms/image", "pace against bare", title=bundle.name)
    rows = {}
    for name, pairs in found.items():
        ratio = statistics.median(pace / bare for (pace, _), bare in zip(pairs, base, strict=True))
        pace = statistics.median(pace for pace, _ in pairs)
        cpu = statistics.median(cpu for _, cpu in pairs)
        rows[name] = {"images_per_s": pace, "cpu_ms_per_image": cpu, "ratio": ratio}
        table.add_row(name, f"{pace:.1f}", f"{cpu:.2f}", f"{ratio:.3f}")
    Console().print(table)
    write_json(out, {"bundle": bundle.name, **setting, "sides": rows})


if __name__ == "__main__":
    try:
        typer.run(main)
    except JepackError as problem:
        sys.exit(f"error: {problem}")
