"""How fluent is the map? Time to the first points, frames while panning, a lasso's way to Python and back.

Synthetic indexes: 40 clouds of unit vectors, one tiny picture for all. Chromium without a GPU, so that every
pixel is drawn by the processor: a lower bound of what a person sees.

    python -m benchmarks.map --images 100000 --images 1000000
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from app.columns import Column
from app.lance import building
from app.screenshot import browser, wait_for
from app.store import IndexInfo, Row
from jepack.files import write_json

OUT = Path(__file__).parent / "results" / "map.json"
CLOUDS, DIMENSION, BATCH = 40, 64, 50_000
COLUMNS = (Column("scanner", "category"), Column("hours", "number"), Column("taken", "date"))
WAIT_S = 300
DRAWN = "return document.querySelector('.jp-map-frame')?.dataset.drawn"
SAID = "return document.querySelector('.jp-map-said')?.textContent"
# Drags to and fro for three seconds, a step with each frame; tells frames a second.
PAN = """
const done = arguments[0], canvas = document.querySelector('.jp-map-canvas');
const box = canvas.getBoundingClientRect();
const at = (kind, x, buttons) => canvas.dispatchEvent(new MouseEvent(kind, {clientX: x, clientY: box.y + 200,
  buttons, bubbles: true}));
let frames = 0, drawn = 0;
const plot = document.querySelector('.jp-map-frame').jpMap.plot;
plot.subscribe('draw', () => drawn++);
const begin = performance.now(), middle = box.x + box.width / 2;
at('mouseenter', middle, 0); at('mousemove', middle, 0); at('mousedown', middle, 1);
const step = () => {
  const now = performance.now() - begin;
  at('mousemove', middle + 120 * Math.sin(now / 300), 1);
  frames++;
  if (now < 3000) requestAnimationFrame(step);
  else { at('mouseup', middle, 0); done([1000 * frames / now, 1000 * drawn / now]); }
};
requestAnimationFrame(step);
"""
LASSO = """
document.querySelector('.jp-map-frame').jpMap.plot.lassoSelect(
  [[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]], {isGl: true});
"""


def make(folder: Path, images: int) -> None:
    rng = np.random.default_rng(0)
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), "teal").save(stream, "WEBP")
    clouds = rng.normal(size=(CLOUDS, DIMENSION))
    info = IndexInfo(
        name=f"{images:,} images",
        output="embedding",
        dimension=DIMENSION,
        fingerprint="0" * 16,
        data=str(folder),
        columns=COLUMNS,
    )
    with building(folder, info) as store:
        for start in range(0, images, BATCH):
            of = rng.integers(CLOUDS, size=min(BATCH, images - start))
            vectors = (clouds[of] + 0.6 * rng.normal(size=(len(of), DIMENSION))).astype(np.float32)
            rows = [
                Row(
                    id=f"{cloud:02}/{start + at:07}.png",
                    label=f"cloud {cloud}",
                    thumbnail=stream.getvalue(),
                    vector=vector,
                    columns={
                        "scanner": f"scanner {(start + at) % 12}",
                        "hours": float((start + at) * 7919 % 100_003),
                        "taken": f"2026-{at % 12 + 1:02}-{at % 28 + 1:02}T00:00:00+00:00",
                    },
                )
                for at, (cloud, vector) in enumerate(zip(of, vectors, strict=True))
            ]
            store.upsert(rows, fingerprint=info.fingerprint)


@contextmanager
def page(index: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "jepack", "app", str(index), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[0]
        finally:
            process.terminate()


def until(driver: Any, script: str) -> tuple[Any, float]:
    """(what it gives, seconds until it gives something)."""
    began = time.perf_counter()
    while time.perf_counter() - began < WAIT_S:
        found = driver.execute_script(script)
        if found:
            return found, time.perf_counter() - began
        time.sleep(0.02)
    raise TimeoutError(f"{script}: nothing; the page says: {driver.execute_script(SAID)}")


def opened(driver: Any, url: str) -> float:
    """Seconds from the click on the tab to the drawn points."""
    driver.get(url)
    [tab] = [one for one in wait_for(driver, "button[role=tab]") if one.text == "Map"]
    tab.click()
    return until(driver, DRAWN)[1]


def measure(index: Path) -> dict[str, float]:
    """With nothing kept, and once more with the main directions kept."""
    with page(index) as url, browser(1440, 900) as driver:
        driver.set_script_timeout(WAIT_S)
        first, again = opened(driver, url), opened(driver, url)
        for stop in driver.find_elements("css selector", "#jp-map-stop"):
            stop.click()  # what it measures is the map, not the work beside it
        until(driver, "return !document.querySelector('#jp-map-stop')?.checkVisibility()")
        driver.execute_async_script(PAN)  # warms up
        frames, drawn = driver.execute_async_script(PAN)
        driver.execute_script(LASSO)
        text, lasso = until(driver, "return document.querySelector('.jp-chosen')?.textContent")
    return {
        "first_points_s": first,
        "kept_points_s": again,
        "frames_per_s": frames,
        "drawn_per_s": drawn,
        "lasso_s": lasso,
        "load": os.getloadavg()[0],
        "chosen": float(text.split()[0].replace(",", "")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, action="append")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    found = {}
    for images in asked.images or [100_000, 1_000_000]:
        with tempfile.TemporaryDirectory() as place:
            make(Path(place) / "index", images)
            found[str(images)] = measure(Path(place) / "index")
    table = Table("images", *next(iter(found.values())))
    for images, row in found.items():
        table.add_row(f"{int(images):,}", *(f"{value:,.2f}" for value in row.values()))
    Console().print(table)
    write_json(asked.out, {"dimension": DIMENSION, "cores": os.cpu_count(), "measured": found})


if __name__ == "__main__":
    main()
