"""How long does another colour of the map take? By label, by each kind of column, by a probe.

    python -m benchmarks.map_colours --images 100000 --images 1000000

The indexes of benchmarks.map. First the server alone, in this process: the answer to a change of colour, and
the codes that the page fetches then; as they are made for the first time, and again; processor time, which a
busy machine lengthens little. Then the page: Chromium without a GPU, wall clock from the choice to the drawn
points. The probe is the page's own, fitted on 10,000 labels.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from starlette.applications import Starlette
from starlette.testclient import TestClient

from app.desk import Desk
from app.engine import at_endpoint
from app.library import Library
from app.screenshot import browser, wait_for
from app.tabs.map.answer import Answers
from app.tabs.map.routes import routes
from app.tabs.probe.bench import Question, bench_of
from benchmarks.map import WAIT_S, make, opened, page, until
from jepack.files import write_json

OUT = Path(__file__).parent / "results" / "map_colours.json"
WAYS = {
    "column:scanner": "Column scanner",
    "column:hours": "Column hours",
    "column:taken": "Column taken",
    "prediction": "Probe: class",
    "sureness": "Probe: how sure",
    "label": "Label",
}


def probed(desk: Desk) -> None:
    """Until a head is there and its judgement does not work beside what is measured."""
    _, work = bench_of(desk).look(Question(False, ""))
    work.wait(WAIT_S)
    if bench_of(desk).newest() is None:
        raise SystemExit(f"no probe after {WAIT_S} s: {work.problem}")


def of_server(index: Path) -> dict[str, dict[str, float]]:
    desk = Desk(Library(index), at_endpoint("127.0.0.1:9"))
    answers, client = Answers(desk), TestClient(Starlette(routes=routes(desk)))
    answers.show_again("pca", "")  # the places are made
    probed(desk)
    found: dict[str, dict[str, float]] = {}
    for again in ("", "_again"):
        for name in WAYS:
            began = time.process_time()
            board = answers.show_again("pca", name)
            shown = time.process_time()
            codes = client.get("/colours", params={"by": name}).content
            assert board.view["by"] == name, board.view
            found.setdefault(name, {}).update(
                {
                    f"answer{again}_cpu_s": shown - began,
                    f"codes{again}_cpu_s": time.process_time() - shown,
                    "answer_bytes": float(len(str(board.legend)) + len(str(board.groups))),
                    "codes_bytes": float(len(codes)),
                }
            )
    return found


def of_page(index: Path) -> dict[str, dict[str, float]]:
    """Seconds from a click on the way to its drawn points, the first time and once more."""
    found: dict[str, dict[str, float]] = {}
    with page(index) as url, browser(1440, 900) as driver:
        driver.set_script_timeout(WAIT_S)
        opened(driver, url)
        for stop in driver.find_elements("css selector", "#jp-map-stop"):
            if stop.is_displayed():
                stop.click()
        go_to(driver, "Probe")
        until(driver, "return document.querySelector('.jp-probe-verdict')")
        until(driver, "return !document.querySelector('.jp-working')")
        go_to(driver, "Map")
        for again in ("", "_again"):
            for name, title in WAYS.items():
                found.setdefault(name, {})[f"page{again}_s"] = chosen(driver, name, title)
    return found


def go_to(driver: Any, title: str) -> None:
    [tab] = [one for one in wait_for(driver, "button[role=tab]") if one.text == title]
    tab.click()


def chosen(driver: Any, name: str, title: str) -> float:
    wait_for(driver, "#jp-map-by input")[0].click()
    options = wait_for(driver, "#jp-map-by [role=option]")
    [one] = [option for option in options if option.get_attribute("aria-label") == title]
    one.click()
    drawn = "return document.querySelector('.jp-map-frame').dataset.drawn.split(' ').slice(1, -1).join(' ')"
    return until(driver, f"{drawn} === '{name}'")[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, action="append")
    parser.add_argument("--no-page", action="store_true", help="the server alone")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    found: dict[str, Any] = {}
    for images in asked.images or [100_000, 1_000_000]:
        with tempfile.TemporaryDirectory() as place:
            make(Path(place) / "index", images)
            rows = of_server(Path(place) / "index")
            for name, row in ({} if asked.no_page else of_page(Path(place) / "index")).items():
                rows[name] |= row
        found[str(images)] = {"load": os.getloadavg()[0], "ways": rows}
        show(images, rows)
    write_json(asked.out, {"cores": os.cpu_count(), "measured": found})


def show(images: int, rows: dict[str, dict[str, float]]) -> None:
    columns = list(next(iter(rows.values())))
    table = Table("coloured by", *columns, title=f"{images:,} images", box=None)
    for name, row in rows.items():
        table.add_row(
            name, *(f"{row[one]:,.0f}" if "bytes" in one else f"{row[one]:.3f}" for one in columns)
        )
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
