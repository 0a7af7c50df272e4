"""`jepack embed` as a job for millions: kill -9 at random moments, and memory from 10^5 to 10^6 images.

    python -m benchmarks.bulk                       # ten minutes on two busy cores, 4 GB of disk
    python -m benchmarks.bulk --kills 3 --images 100000

The encoder is left out: a stand-in gives rows that follow from an image's name and reads no file, so what is
measured is what lies around it: listing, spool, sharing of batches, parts, resuming, the one file at the end.

Kills: a try starts anew and is killed up to 0.2 s after a part drawn between none and the last has appeared;
then the same command runs to its end. Equal means: every image once, with its own row, no file left behind.
Every second try writes one .parquet, the others a folder; one image in 50 is bad. Memory: the resident size
of the process, sampled; its largest value while 10^5, 10^5.5 and 10^6 images (empty files, 1,000 in a
folder) are done, and when the same command meets all of them done.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from jepack.cli import main as main_of_jepack
from jepack.client import Embeddings, Endpoint
from jepack.files import write_json
from jepack.sources import ImageFile
from serving import embedding

OUT = Path(__file__).parent / "results" / "bulk.json"
DIMENSIONS = {"embedding": 128, "projection": 64}
BAD_EVERY = 50
FLAT = 0.10  # of the size at the smallest number of images
Json = dict[str, Any]


class StandIn:
    """A worker whose rows follow from names."""

    place = "stand-in"

    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s

    def embed(self, files: Sequence[ImageFile]) -> Embeddings:
        time.sleep(self.wait_s)
        numbers = [number_of(file.path.name) for file in files]
        rows = {
            output: np.repeat(np.array(numbers, np.float32)[:, None], dims, 1)
            for output, dims in DIMENSIONS.items()
        }
        bad = {at: "stand-in for a bad image" for at, n in enumerate(numbers) if is_bad(n)}
        return Embeddings(rows["embedding"], rows["projection"], {}, bad)

    def diagnose(self) -> str | None:
        return None


def number_of(name: str) -> int:
    return zlib.crc32(name.encode()) % 1_000_003  # exact in float32


def is_bad(number: int) -> bool:
    return number % BAD_EVERY == 0


def command(data: Path, out: Path, wait_s: float, *more: str) -> list[str]:
    words = ["embed", str(data), "--out", str(out), "--json", *more]
    return [sys.executable, "-m", "benchmarks.bulk", "--stand-in", str(wait_s), *words]


def run_stand_in(wait_s: float, words: list[str]) -> None:
    """The command itself, its engine replaced."""
    prints = {"embedding": "00000000000000ee", "projection": "00000000000000ff"}
    served = Endpoint("stand-in", prints, DIMENSIONS, 64)

    def crew(*_: Any, **__: Any) -> Any:
        return served, [StandIn(wait_s) for _ in range(4)]

    embedding.crew_of = crew  # type: ignore[assignment]
    sys.argv = ["jepack", *words]
    main_of_jepack()


def make_images(folder: Path, first: int, last: int) -> None:
    """Empty files first..last-1, 1,000 in a folder."""
    for number in range(first, last):
        place = folder / f"{number // 1000:04}"
        if number == first or number % 1000 == 0:
            place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:07}.png").touch()


def wrong_rows(data: Path, out: Path) -> str | None:
    """What is not as it should be."""
    expected = {path.relative_to(data).as_posix() for path in data.rglob("*.png")}
    good, bad = files_of(out)
    names: list[str] = []
    for file in good:
        table = pq.read_table(file)
        names += table["path"].to_pylist()
        values = np.asarray(table["embedding"].combine_chunks().flatten()).reshape(len(table), -1)
        numbers = [number_of(Path(name).name) for name in table["path"].to_pylist()]
        if not (values == np.array(numbers, np.float32)[:, None]).all():
            return f"{file.name} holds another image's row"
    refused = [name for file in bad for name in pq.read_table(file)["path"].to_pylist()]
    every = names + refused
    if len(set(every)) != len(every):
        return f"{len(every) - len(set(every))} rows twice"
    if set(every) != expected:
        return f"{len(expected - set(every))} images lost"
    if any(is_bad(number_of(Path(name).name)) for name in names):
        return "a bad image among the good"
    return None


def files_of(out: Path) -> tuple[list[Path], list[Path]]:
    if out.is_dir():
        return sorted(out.glob("part-*.parquet")), sorted(out.glob("bad-*.parquet"))
    return [out], [out.with_name(f"{out.stem}.bad.parquet")]


def kills(work: Path, count: int, images: int, seed: int, console: Console) -> Json:
    data = work / "few"
    make_images(data, 0, images)
    more = ("--part-rows", "256", "--batch-size", "16")
    draw, tries = random.Random(seed), []
    whole = -(-images // 256)  # parts of an undisturbed run
    for number in range(count):
        out = work / ("one.parquet" if number % 2 else "parts")
        line = command(data, out, 0.005, *more)
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        parts = out.with_name(f"{out.name}.parts") if out.suffix else out
        moment, more_s = draw.randint(0, whole), draw.uniform(0, 0.2)
        while process.poll() is None and len(list(parts.glob("part-*"))) < moment:
            time.sleep(0.002)
        time.sleep(more_s)
        process.kill()
        ended = process.wait() == 0
        there = len(list(parts.glob("part-*"))), len(list(work.rglob(".*.tmp")))
        done = subprocess.run(line, capture_output=True, text=True)
        wrong = done.stderr[-300:] if done.returncode else wrong_rows(data, out)
        left = [path.name for path in work.rglob(".*.tmp")]
        wrong = wrong or (f"left behind: {left}" if left else None)
        tries.append({
            "kind": "file" if out.suffix else "folder", "part": moment, "more_s": round(more_s, 3),
            "ended_before": ended, "parts_there": there[0], "half_written": there[1], "wrong": wrong,
        })  # fmt: skip
        console.print(f"kill {number + 1}/{count}: {tries[-1]}", highlight=False)
        for path in (out, parts, out.with_name("one.bad.parquet")):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return {"images": images, "parts": whole, "tries": tries}


def largest_mb(line: list[str]) -> tuple[float, float]:
    """The largest resident size of a command, MB, and its seconds."""
    began, most = time.monotonic(), 0
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            most = max(most, watched.memory_info().rss)
        except psutil.Error:
            break
        time.sleep(0.1)
    if process.wait():
        raise SystemExit(f"{line} ended with {process.returncode}")
    return most / 1e6, time.monotonic() - began


def memory(work: Path, most: int, console: Console) -> list[Json]:
    data, rows, made = work / "many", [], 0
    for images in sorted({min(most, 100_000), min(most, 316_000), most}):
        make_images(data, made, images)
        made = images
        out = work / "vectors"
        line = command(data, out, 0.0, "--batch-size", "64")
        mb, seconds = largest_mb(line)
        again_mb, again_s = largest_mb(line)
        row = {
            "images": images, "mb": round(mb, 1), "seconds": round(seconds, 1),
            "images_per_s": round(images / seconds), "again_mb": round(again_mb, 1),
            "again_s": round(again_s, 1),
        }  # fmt: skip
        console.print(row, highlight=False)
        rows.append(row)
        shutil.rmtree(out)
    return rows


def show(told: Json, console: Console) -> bool:
    tries, sizes = told["kills"]["tries"], told["memory"]
    right = sum(one["wrong"] is None for one in tries)
    half = sum(one["half_written"] > 0 for one in tries)
    console.print(
        f"kill -9: {right} of {len(tries)} end with every image once; {half} kills came while a file was "
        f"written, {sum(one['ended_before'] for one in tries)} after the end"
    )
    table = Table("images", "largest RSS, MB", "s", "images/s", "again: MB", "s")
    for row in sizes:
        table.add_row(
            f"{row['images']:,}", f"{row['mb']:.0f}", f"{row['seconds']:.0f}",
            f"{row['images_per_s']:,}", f"{row['again_mb']:.0f}", f"{row['again_s']:.0f}",
        )  # fmt: skip
    console.print(table)
    grown = sizes[-1]["mb"] / sizes[0]["mb"] - 1 if sizes else 0.0
    console.print(f"memory grows by {grown:.1%} from the smallest to the largest")
    return right == len(tries) and grown <= FLAT


def main() -> int:
    if sys.argv[1:2] == ["--stand-in"]:
        run_stand_in(float(sys.argv[2]), sys.argv[3:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    console = Console(width=140)
    with TemporaryDirectory(prefix="jepack-bulk-") as name:
        work = Path(name)
        told: Json = {
            "kills": kills(work, options.kills, 10_000, options.seed, console),
            "memory": memory(work, options.images, console) if options.images else [],
            "cores": psutil.cpu_count(),
        }
    fine = show(told, console)
    write_json(options.out, told)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
