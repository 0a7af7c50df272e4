"""Can everyone use the page? axe-core in a browser, on every tab, light and dark, wide and narrow.

axe-core (MPL-2.0) is not part of jepack:

    npm pack axe-core && tar xf axe-core-*.tgz
    jepack app INDEX INDEX                               # two, so that the tab Compare is there
    AXE=package/axe.min.js python -m benchmarks.page_access --url http://127.0.0.1:7860

Prints the violations and writes them to results/page_access.json. Exit code 1 where one of the serious or
critical ones lies in HTML of ours; inside Gradio's own it is told and counts apart.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from app import album
from app.screenshot import browser, open_page, resize
from jepack.files import write_json

OUT = Path(__file__).parent / "results" / "page_access.json"
WIDTHS = (1440, 390)
GRAVE = ("serious", "critical")
RUN = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ['violations']}).then(found => {
  const told = one => one.nodes.map(node => {
    const at = document.querySelector(node.target.flat()[0]);
    return {
      html: node.html.slice(0, 200), target: node.target.flat().join(' '),
      why: node.failureSummary?.slice(0, 400) ?? '',
      ours: Boolean(at?.closest('.html-container, .jp-view')),
    };
  });
  done({version: found.testEngine.version, passes: found.passes.length,
    violations: found.violations.map(one => ({id: one.id, impact: one.impact, nodes: told(one)}))});
}, error => done({error: String(error)}));
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True, help="address of the open page")
    parser.add_argument("--axe", type=Path, default=os.environ.get("AXE"), help="axe.min.js")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    if chosen.axe is None or not Path(chosen.axe).is_file():
        parser.error(f"axe.min.js: not found at {chosen.axe}. Get it: npm pack axe-core")
    script = Path(chosen.axe).read_text()
    found = [one for look in album.LOOKS for one in looked(chosen.url, script, look)]
    tell(found)
    write_json(chosen.out, {"axe": found[0]["version"], "pages": [short(one) for one in found]})
    sys.exit(any(count(one, ours=True) for one in found))


def looked(url: str, script: str, look: str) -> list[dict[str, Any]]:
    """axe's answer for each tab at each width."""
    found = []
    with browser(dark=look == "dark") as driver:
        driver.set_script_timeout(300)
        for width in WIDTHS:
            resize(driver, width, album.SIZES[width])
            open_page(driver, url)
            driver.execute_script(script)
            for name in album.names(driver):
                album.show(driver, name)
                answer = driver.execute_async_script(RUN)
                if "error" in answer:
                    raise RuntimeError(f"{name}: axe failed: {answer['error']}")
                found.append({"tab": name, "width": width, "look": look, **answer})
    return found


def count(page: dict[str, Any], *, ours: bool) -> int:
    """Elements with a serious or critical violation, ours or Gradio's own."""
    return sum(
        node["ours"] is ours
        for one in page["violations"]
        if one["impact"] in GRAVE
        for node in one["nodes"]
    )


def tell(pages: list[dict[str, Any]]) -> None:
    console = Console(soft_wrap=True)
    table = Table(
        title=f"axe-core {pages[0]['version']}: elements with serious or critical violations"
    )
    for name in ("tab", "width", "look", "ours", "Gradio's own", "other violations"):
        table.add_column(name, justify="left" if name in ("tab", "look") else "right")
    for page in pages:
        rest = sum(len(one["nodes"]) for one in page["violations"] if one["impact"] not in GRAVE)
        counts = [str(count(page, ours=ours)) for ours in (True, False)]
        table.add_row(page["tab"], str(page["width"]), page["look"], *counts, str(rest))
    console.print(table)
    kinds: dict[tuple[str, str, bool], dict[str, Any]] = {}
    for page in pages:
        for one in page["violations"]:
            for node in one["nodes"]:
                known = kinds.setdefault(
                    (one["impact"], one["id"], node["ours"]), {"pages": set(), **node}
                )
                known["pages"].add(f"{page['tab']} {page['width']} {page['look']}")
    for (impact, name, ours), node in sorted(kinds.items()):
        console.print(f"{impact} {name} ({'ours' if ours else 'Gradio'}), {len(node['pages'])} pages: "
                      f"{', '.join(sorted(node['pages'])[:4])}", markup=False)  # fmt: skip
        console.print(f"    {node['target']}\n    {node['html']}\n    {node['why']}", markup=False)


def short(page: dict[str, Any]) -> dict[str, Any]:
    """What is kept of an answer."""
    kept = [
        {
            "id": one["id"],
            "impact": one["impact"],
            "ours": sum(node["ours"] for node in one["nodes"]),
            "gradio": sum(not node["ours"] for node in one["nodes"]),
            "first": one["nodes"][0]["target"],
        }
        for one in page["violations"]
    ]
    return {
        "tab": page["tab"],
        "width": page["width"],
        "look": page["look"],
        "serious_ours": count(page, ours=True),
        "serious_gradio": count(page, ours=False),
        "rules_passed": page["passes"],
        "violations": kept,
    }


if __name__ == "__main__":
    main()
