"""How fast is a search of 10^4, 10^5, 10^6 vectors? jepack's index beside FAISS, in one run.

    python -m venv rivals && rivals/bin/pip install --no-deps faiss-cpu==1.15.1
    echo $PWD/.venv/lib/python3.11/site-packages > rivals/lib/python3.11/site-packages/jepack.pth
    rivals/bin/python -m benchmarks.search

Vectors are made: 512 dimensions, 1000 clusters of 24 directions each and a little of all, about a common
mean, so that two of them at random have a cosine near .4, as many encoders give. `--isotropic` takes N(0, I)
instead, the hardest case there is. Queries are of the same kind and not in the index. Engines take turns,
round by round, on the same cores; the least time of the rounds and the median are told, and recall@10 against
float64. Where the machine has other work, pin it (`OMP_WAIT_POLICY=PASSIVE taskset -c 0`) and read the
processor time: on one core that nobody else wants it is the time there is. Above --table-most vectors the
table is left out, and the copy is made of the vectors alone.

FAISS flat "as it comes" is IndexFlatIP with the wheel's own settings; "with BLAS" has its threshold at 20
queries, where one matrix product answers them all. HNSW has 32 links and ef 64; its build is left out above
--hnsw-most vectors, where it takes long.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from app.lance import LanceStore, building, open_index
from app.scan import kept
from app.scan.kept import Copy
from app.scan.search import search
from app.store import IndexInfo, Row
from jepack.files import write_json
from jepack.machine import threads
from jepack.measures import unit

OUT = Path(__file__).parent / "results" / "search.json"
D, K, MANY = 512, 10, 100
SPACE = "00000000000000aa"
INFO = IndexInfo(name="speed", output="embedding", dimension=D, fingerprint=SPACE, data="photos")
PART = 20_000
Floats = npt.NDArray[np.float32]
Json = dict[str, Any]
Found = npt.NDArray[np.int64]  # [Q, K] numbers of rows


class Maker:
    """Vectors of one kind, as many as are asked for."""

    def __init__(self, isotropic: bool) -> None:
        self.isotropic = isotropic
        self.rng = np.random.default_rng(0)
        self.centres = self.rng.normal(size=(1000, D)).astype(np.float32)
        self.directions = self.rng.normal(size=(20, 24, D)).astype(np.float32) / 5
        self.mean = self.rng.normal(size=D).astype(np.float32) * 1.2

    def __call__(self, count: int) -> Floats:
        noise = self.rng.standard_normal((count, D), np.float32)
        if self.isotropic:
            return noise
        own = self.rng.integers(len(self.centres), size=count)
        spread = self.rng.standard_normal((count, 24), np.float32)
        x = self.mean + self.centres[own] + 0.15 * noise
        for at in range(len(self.directions)):
            here = own % len(self.directions) == at
            x[here] += spread[here] @ self.directions[at]
        return x


def build(folder: Path, vectors_ND: Floats) -> LanceStore:
    with building(folder, INFO) as store:
        for start in range(0, len(vectors_ND), PART):
            rows = [
                Row(id=f"{start + at:08d}", label=str(at % 7), vector=vector)
                for at, vector in enumerate(vectors_ND[start : start + PART])
            ]
            store.upsert(rows, fingerprint=SPACE)
    return open_index(folder)


def truth(vectors_ND: Floats, queries_QD: Floats) -> Found:
    """By float64, in blocks."""
    q, best = unit(queries_QD.astype(np.float64)), np.empty((len(queries_QD), 0))
    names = np.empty((len(queries_QD), 0), np.int64)
    for start in range(0, len(vectors_ND), PART):
        here = q @ unit(vectors_ND[start : start + PART].astype(np.float64)).T
        at = np.argpartition(-here, K - 1, axis=1)[:, :K]
        best = np.concatenate([best, np.take_along_axis(here, at, axis=1)], axis=1)
        names = np.concatenate([names, at + start], axis=1)
        order = np.argsort(-best, axis=1)[:, :K]
        best, names = np.take_along_axis(best, order, 1), np.take_along_axis(names, order, 1)
    return names


def recall(found: Found, wanted: Found) -> float:
    pairs = zip(found.tolist(), wanted.tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b)) / K for a, b in pairs]))


def copy_alone(folder: Path, vectors_ND: Floats) -> Copy:
    """The copy without a table."""
    count = len(vectors_ND)
    blocks = (
        (np.arange(at, min(at + PART, count), dtype=np.uint64), vectors_ND[at : at + PART])
        for at in range(0, count, PART)
    )
    kept.write(folder, 1, count, vectors_ND[:: -(-count // 4096)], blocks)
    copy = kept.open_copy(folder, 1, count)
    assert copy is not None
    return copy


def engines(
    store: LanceStore | None, copy: Copy, vectors_ND: Floats, hnsw: bool
) -> Iterator[tuple[str, float, Callable[[Floats], Found]]]:
    """(name, seconds to build, what answers queries with row numbers)."""
    import faiss

    faiss.omp_set_num_threads(threads.cores())
    default = faiss.cvar.distance_compute_blas_threshold
    began = time.perf_counter()
    x = unit(vectors_ND).astype(np.float32)
    flat = faiss.IndexFlatIP(D)
    flat.add(x)
    seconds = time.perf_counter() - began

    def faiss_flat(threshold: int) -> Callable[[Floats], Found]:
        def ask(queries: Floats) -> Found:
            faiss.cvar.distance_compute_blas_threshold = threshold
            return np.asarray(flat.search(queries, K)[1])

        return ask

    yield "FAISS flat, as it comes", seconds, faiss_flat(default)
    yield "FAISS flat, with BLAS", seconds, faiss_flat(20)
    if hnsw:
        graph = faiss.IndexHNSWFlat(D, 32, faiss.METRIC_INNER_PRODUCT)
        began = time.perf_counter()
        graph.add(x)
        graph.hnsw.efSearch = 64
        yield "FAISS HNSW32, ef 64", time.perf_counter() - began, lambda q: graph.search(q, K)[1]
    del x
    order = np.arange(len(vectors_ND))  # of the stored rows
    if store is not None:
        order = np.array([int(row.id) for part in store.scan() for row in part])

    def scan(queries: Floats) -> Found:
        near = [one for one in search(copy, queries, K) if one is not None]
        return np.stack([order[places[np.argsort(far)[:K]]] for places, far in near])

    yield "jepack, the scan alone", 0, scan
    if store is None:
        return

    def whole(queries: Floats) -> Found:
        found = store.search(queries, K, fingerprint=SPACE)
        return np.array([[int(hit.row.id) for hit in hits] for hits in found])

    yield "jepack, rows and labels", 0, whole

    def table(queries: Floats) -> Found:
        found = [store._searcher._by_table(query, K, "", False) for query in queries]
        return np.array([[int(hit.row.id) for hit in hits] for hits in found])

    yield "LanceDB's own scan", 0, table


def measure(count: int, options: argparse.Namespace, console: Console) -> Json:
    make = Maker(options.isotropic)
    vectors = np.concatenate([make(min(PART, count - at)) for at in range(0, count, PART)])
    queries = make(MANY)
    work = Path(tempfile.mkdtemp(prefix="jepack-search-", dir=options.work))
    try:
        began = time.perf_counter()
        store = build(work / "index", vectors) if count <= options.table_most else None
        copy = store._searcher.copy() if store else copy_alone(work / "index", vectors)
        built = time.perf_counter() - began
        assert copy is not None
        size = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
        copied = sum(p.stat().st_size for p in work.rglob("codes-*/*"))
        wanted, rows = truth(vectors, queries), list[Json]()
        asked = list(engines(store, copy, vectors, count <= options.hnsw_most))
        for name, seconds, ask in asked:
            few = name.startswith("LanceDB")
            found = ask(queries[:5] if few else queries)
            rows.append({
                "engine": name, "build_s": seconds, "recall": recall(found, wanted[: len(found)]),
                "one_ms": [], "many_ms": [],
            })  # fmt: skip
        for turn in range(options.rounds):
            for row, (name, _, ask) in zip(rows, asked, strict=True):
                if not name.startswith("LanceDB") or turn % 5 == 0:
                    for at in range(
                        3
                    ):  # the first finds the caches full of another engine's vectors
                        row["one_ms"].append(timed(ask, queries[(3 * turn + at) % MANY][None]))
                few = name.startswith("LanceDB") or (count > 200_000 and "comes" in name)
                if turn % 4 == 0 and not (few and turn):
                    part = 10 if few else MANY  # and the time of as many tens
                    times = timed(ask, queries[:part])
                    row["many_ms"].append(tuple(one * MANY / part for one in times))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for row in rows:
        for name in ("one_ms", "many_ms"):
            wall, cpu = zip(*row.pop(name), strict=True)
            row[name] = {
                "least": min(wall), "median": float(np.median(wall)),
                "processor": min(cpu), "processor_median": float(np.median(cpu)),
            }  # fmt: skip
    cosine = unit(vectors[:500]) @ unit(vectors[500:1000]).T
    return {
        "vectors": count, "built_s": built, "index_bytes": size, "copy_bytes": copied,
        "mean_cosine": float(cosine.mean()), "rows": rows,
    }  # fmt: skip


def timed(ask: Callable[[Floats], Found], queries: Floats) -> tuple[float, float]:
    """(wall, processor) milliseconds."""
    began, used = time.perf_counter(), time.process_time()
    ask(queries)
    return (time.perf_counter() - began) * 1e3, (time.process_time() - used) * 1e3


def show(result: Json, console: Console) -> None:
    """Times are the least; x is how many times less processor time than FAISS flat, the faster of its two."""
    console.print(f"{result['vectors']:,} vectors", style="bold", highlight=False)
    table = Table(box=None)
    for heading in (
        "engine",
        "recall@10",
        "1 query: ms",
        "CPU ms",
        "x",
        "100: ms",
        "CPU ms",
        "x",
    ):
        table.add_column(
            heading, justify="left" if heading == "engine" else "right", no_wrap=heading == "engine"
        )
    base = {
        name: min(row[name]["processor"] for row in result["rows"][:2])
        for name in ("one_ms", "many_ms")
    }
    for row in result["rows"]:
        cells = [
            text
            for name in ("one_ms", "many_ms")
            for text in (
                f"{row[name]['least']:.2f}", f"{row[name]['processor']:.2f}",
                f"{base[name] / row[name]['processor']:.1f}",
            )
        ]  # fmt: skip
        table.add_row(row["engine"], f"{row['recall']:.3f}", *cells)
    console.print(table)
    console.print(
        f"built in {result['built_s']:.0f} s, {result['index_bytes'] / 1e6:.0f} MB, the copy "
        f"{result['copy_bytes'] / 1e6:.0f} MB of it; mean cosine {result['mean_cosine']:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--isotropic", action="store_true")
    parser.add_argument("--table-most", type=int, default=200_000)
    parser.add_argument("--hnsw-most", type=int, default=100_000)
    parser.add_argument("--work", type=Path, help="folder for the indexes, which are removed")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    console, results = Console(), []
    for count in options.sizes:
        results.append(measure(count, options, console))
        show(results[-1], console)
        write_json(options.out, {
            "dimensions": D, "k": K, "isotropic": options.isotropic, "rounds": options.rounds,
            "cores": threads.cores(), "processor": processor(), "python": platform.python_version(),
            "load": os.getloadavg(), "results": results,
        })  # fmt: skip
    console.print(f"written to {options.out}")


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "")


if __name__ == "__main__":
    main()
