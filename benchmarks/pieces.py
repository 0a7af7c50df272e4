"""How a CPU server should run a batch: whole on all threads, or in pieces, a thread each.

    python -m benchmarks.pieces BUNDLE [BUNDLE ...]                         (half a minute each)

ONNX Runtime alone. Least of several tries that take turns, because other programs lengthen a try and never
shorten it: processor ms an image, and ms on the clock.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.files import write_json
from jepack.machine.threads import cores

OUT = Path(__file__).parent / "results" / "pieces.json"
BATCHES, PIECES, TRIES = (1, 2, 4, 16), (1, 2, 4), 12


def session(bundle: Bundle, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        str(bundle.onnx()), options, providers=["CPUExecutionProvider"]
    )


def ways(bundle: Bundle, threads: int) -> dict[str, Callable[[Any], Any]]:
    together, alone = session(bundle, threads), session(bundle, 1)
    pool = ThreadPoolExecutor(threads)

    def in_pieces(size: int) -> Callable[[Any], Any]:
        def run(batch: Any) -> Any:
            pieces = [batch[at : at + size] for at in range(0, len(batch), size)]
            return list(pool.map(lambda one: alone.run(None, {"pixel_values": one}), pieces))

        return run

    whole = {"whole": lambda batch: together.run(None, {"pixel_values": batch})}
    return whole | {f"pieces of {size}": in_pieces(size) for size in PIECES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    table = Table("", "px", "batch", "how", "CPU ms/image", "ms/image")
    rows = []
    for folder in asked.bundles:
        bundle = bundles.load(folder)
        side, channels = bundle.preprocessing.size, bundle.preprocessing.channels
        draw, every = np.random.default_rng(0), ways(bundle, asked.threads)
        images = draw.integers(0, 256, (max(BATCHES), side, side, channels), dtype=np.uint8)
        for count in BATCHES:
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in every}
            for _ in range(TRIES):
                for name, run in every.items():
                    cpu, clock = time.process_time(), time.perf_counter()
                    run(images[:count])
                    spent = time.process_time() - cpu, time.perf_counter() - clock
                    found[name].append((1000 * spent[0] / count, 1000 * spent[1] / count))
            for name, tries in found.items():
                cpu, clock = (round(min(values), 2) for values in zip(*tries, strict=True))
                rows.append({"bundle": bundle.name, "size": side, "batch": count, "how": name,
                             "cpu_ms_per_image": cpu, "ms_per_image": clock})  # fmt: skip
                table.add_row(bundle.name, str(side), str(count), name, f"{cpu}", f"{clock}")
    Console().print(table)
    write_json(asked.out, {"threads": asked.threads, "tries": TRIES, "rows": rows})


if __name__ == "__main__":
    main()
