"""kill -9 while an index is written: nothing that was acknowledged is lost, and a reader never sees half.

    python -m benchmarks.index_kills --tries 100

A writer process upserts the images of an index as one generation after the other and tells each that the
engine has acknowledged, with the copy for searching made after every other; every fourth writer builds the
whole index again each time, as `jepack index` does. It is killed at a random moment. Meanwhile a reader
process opens the index again and again, fetches every row and searches: a state must be whole, of one
generation, and of none older than one acknowledged before it was opened. After each kill this process looks
for the same.

A look that meets the folder just as a new one takes its place may be refused; it is counted, and looks again.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from app.lance import LanceStore, building, open_index
from app.store import IndexInfo, Row
from jepack.errors import ArtifactError
from jepack.files import write_json

OUT = Path(__file__).parent / "results" / "index_kills.json"
D, IMAGES = 32, 40
SPACE = "00000000000000aa"
INFO = IndexInfo(name="kills", output="embedding", dimension=D, fingerprint=SPACE, data="photos")
MOST_S = 1.0  # from a writer's first acknowledgement to its end
Json = dict[str, Any]


def rows_of(generation: int) -> list[Row]:
    """The images as they are in one generation: label and vector say which."""
    rng = np.random.default_rng(generation)
    return [
        Row(
            id=f"{at:03d}.png",
            label=str(generation),
            thumbnail=bytes(2000),
            vector=rng.normal(size=D).astype(np.float32),
        )
        for at in range(IMAGES)
    ]


def look(store: LanceStore) -> int:
    """The generation that all of the index is of; AssertionError where it is of more than one, or wrong."""
    rows = store.get([f"{at:03d}.png" for at in range(IMAGES)])
    generations = {row.label for row in rows}
    assert len(generations) == 1, f"half: {generations}"
    generation = int(generations.pop() or 0)
    assert store.count() == IMAGES, f"{store.count()} rows"
    wanted = rows_of(generation)
    for row, other in zip(rows, wanted, strict=True):
        np.testing.assert_array_equal(row.vector, other.vector)
    asked = np.stack([row.vector for row in wanted if row.vector is not None])
    for row, hits in zip(wanted, store.search(asked, 1, fingerprint=SPACE), strict=True):
        assert (hits[0].row.id, hits[0].row.label) == (row.id, row.label), (
            "search saw another state"
        )
    return generation


def write_on(folder: Path, generation: int, rebuild: bool) -> None:
    """The writer: "GENERATION NS" for each that is acknowledged, until it is killed."""
    store = open_index(folder)
    for one in itertools.count(generation + 1):
        if rebuild:
            with building(folder, INFO) as new:
                new.upsert(rows_of(one), fingerprint=SPACE)
        else:
            store.upsert(rows_of(one), fingerprint=SPACE)
        print(one, time.monotonic_ns(), flush=True)
        if not rebuild and one % 2:
            store.make_copy()


def read_on(folder: Path) -> None:
    """The reader: "NS GENERATION" for each look, or what was wrong with it, until it is killed."""
    while True:
        began = time.monotonic_ns()
        try:
            told: Any = look(open_index(folder))
        except AssertionError as error:
            told = f"wrong: {error}".splitlines()[0]
        except (ArtifactError, RuntimeError, OSError, ValueError) as error:
            told = f"refused: {error}".splitlines()[0]
        print(began, told, flush=True)


def start(role: str, folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.index_kills",
        "--role",
        role,
        "--work",
        str(folder),
    ]
    return subprocess.Popen([*command, *words], stdout=subprocess.PIPE, text=True)


def one_try(folder: Path, generation: int, rebuild: bool, wait_s: float) -> tuple[Json, list[str]]:
    """(what came of it, the acknowledgements) of a writer that is killed `wait_s` after its first."""
    words = ["--generation", str(generation), *(["--rebuild"] if rebuild else [])]
    writer = start("writer", folder, *words)
    assert writer.stdout is not None
    told = [writer.stdout.readline()]
    time.sleep(wait_s)
    writer.send_signal(signal.SIGKILL)
    told += writer.stdout.readlines()
    code = writer.wait()
    whole = [line for line in told if line.endswith("\n")]
    last = int(whole[-1].split()[0]) if whole and whole[-1].strip() else generation
    store = open_index(folder)
    found = look(store)
    store.make_copy()
    look(store)
    return {
        "rebuild": rebuild, "killed": code == -signal.SIGKILL, "acknowledged": last - generation,
        "lost": max(0, last - found), "generation": found,
    }, whole  # fmt: skip


def judge(looks: list[str], acknowledged: list[str]) -> Json:
    """What the reader saw; a look is stale that is older than what was acknowledged before it."""
    pairs = [tuple(map(int, line.split())) for line in acknowledged]
    wrong, refused, stale, seen = list[str](), 0, 0, set[int]()
    for line in looks:
        began, told = line.rstrip("\n").split(" ", 1)
        if told.startswith("refused"):
            refused += 1
        elif told.startswith("wrong"):
            wrong.append(told)
        else:
            seen.add(int(told))
            known = [one for one, at in pairs if at < int(began)]
            stale += bool(known) and int(told) < max(known)
    return {
        "looks": len(looks), "wrong": wrong, "stale": stale, "refused": refused, "states_seen": len(seen),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tries", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/index-kills"))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--role", choices=["writer", "reader"], help=argparse.SUPPRESS)
    parser.add_argument("--generation", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--rebuild", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "writer":
        write_on(options.work, options.generation, options.rebuild)
    if options.role == "reader":
        read_on(options.work)
    shutil.rmtree(options.work, ignore_errors=True)
    folder = options.work / "index"
    with building(folder, INFO) as store:
        store.upsert(rows_of(0), fingerprint=SPACE)
    console, rng = Console(stderr=True), np.random.default_rng(options.seed)
    reader, tries, acknowledged = start("reader", folder), list[Json](), list[str]()
    assert reader.stdout is not None
    lines = list[str]()
    reading = threading.Thread(target=lambda: lines.extend(iter(reader.stdout.readline, "")))
    reading.start()
    generation = 0
    try:
        for number in range(options.tries):
            rebuild = number % 4 == 3
            found, told = one_try(folder, generation, rebuild, float(rng.uniform(0, MOST_S)))
            acknowledged += told
            generation = found["generation"]
            tries.append(found)
            console.print(f"try {number + 1}: {found}", highlight=False, soft_wrap=True)
    finally:
        reader.kill()
        reader.wait()
        reading.join()
    left = [path.name for path in options.work.iterdir() if path.name != "index"]
    result = {
        "tries": len(tries), "killed": sum(one["killed"] for one in tries),
        "acknowledged": sum(one["acknowledged"] for one in tries),
        "lost": sum(one["lost"] for one in tries),
        "reader": judge([line for line in lines if line.endswith("\n")], acknowledged),
        "left_behind": len(left), "python": platform.python_version(), "rows": tries,
    }  # fmt: skip
    write_json(options.out, result)
    console.print({name: value for name, value in result.items() if name != "rows"})
    if result["lost"] or result["reader"]["wrong"] or result["reader"]["stale"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
