"""Does asking for the most informative images save labels? Beside labels for images taken by lot.

    python -m benchmarks.active earth=runs/earth/index solar=runs/solar/index

Of each index a third of the images is the test part; of the others a probe learns, twelve labels at a time,
chosen by `ask` or by lot. "Full" is the probe on all labels of the others. What counts is the number of
labels from which on its accuracy, averaged over the seeds, is 95 % of full. An arm that has not got there
after `--most` labels is told as that. Solar cells are taken without the classes between (0.33, 0.67), as in
benchmarks.quality. The page's own fit and choice are measured, on stored vectors; a few minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from app.lance import open_index
from jepack.files import write_json
from jepack.probing import ask, fit

RESULTS = Path(__file__).parent / "results" / "active.json"
BATCH = 12
GOAL = 0.95
LEFT_OUT = {"defect-0.33", "defect-0.67"}


def read(folder: Path) -> tuple[Any, Any, list[str]]:
    """Vectors [N, D], classes [N] and their names."""
    names, parts = [], []
    for _, labels, rows in open_index(folder).vectors():
        names += labels
        parts.append(np.array(rows))
    kept = np.array([name is not None and name not in LEFT_OUT for name in names])
    x = np.concatenate(parts)[kept]
    classes, y = np.unique(
        [name for name in names if name and name not in LEFT_OUT], return_inverse=True
    )
    return x, y, classes.tolist()


def curve(
    x: Any, y: Any, classes: list[str], seed: int, how: str, most: int
) -> tuple[list[float], float]:
    """(accuracy on the test part after each batch, accuracy with all labels)."""
    mixed = np.random.default_rng(seed).permutation(len(y))
    test, pool = mixed[: len(y) // 3], mixed[len(y) // 3 :]
    full = right(fit(x[pool], y[pool], classes), x[test], y[test])
    by_lot = np.random.default_rng([seed, 1]).permutation(len(pool))
    known = np.zeros(len(pool), bool)
    head, found = None, []
    while known.sum() + BATCH <= min(most, len(pool)):
        free = np.flatnonzero(~known)
        if how == "by lot":
            chosen = by_lot[known.sum() : known.sum() + BATCH]
        else:
            shares = None if head is None else head.probabilities(x[pool[free]])
            labelled = int(known.sum())
            chosen = free[
                ask(x[pool[free]], shares, BATCH, labelled=labelled, seed=seed + labelled)
            ]
        known[chosen] = True
        rows = pool[known]
        if len(np.unique(y[rows])) < 2:
            found.append(0.0)
            continue
        # As on the page: the classes are those that somebody has named so far.
        named, own = np.unique(y[rows], return_inverse=True)
        head = fit(x[rows], own, [classes[at] for at in named])
        answers = named[head.probabilities(x[test]).argmax(axis=1)]
        found.append(float((answers == y[test]).mean()))
    return found, full


def right(head: Any, x: Any, y: Any) -> float:
    return float((head.probabilities(x).argmax(axis=1) == y).mean())


def measure(name: str, folder: Path, seeds: int, most: int) -> dict[str, Any]:
    x, y, classes = read(folder)
    started = time.monotonic()
    arms: dict[str, Any] = {}
    for how in ("ask", "by lot"):
        runs = [curve(x, y, classes, seed, how, most) for seed in range(seeds)]
        accuracies = np.array([run[0] for run in runs])
        full = float(np.mean([run[1] for run in runs]))
        mean = accuracies.mean(axis=0)
        above = mean >= GOAL * full
        # From here on it stays there: one lucky batch is no arrival.
        after = [at for at in range(len(mean)) if above[at:].all()]
        arms[how] = {
            "labels_to_goal": (after[0] + 1) * BATCH if after else None,
            "accuracy": {
                str((at + 1) * BATCH): round(float(mean[at]), 4) for at in range(len(mean))
            },
            "spread_at_goal": round(float(accuracies[:, after[0]].std()), 4) if after else None,
        }
    return {
        "data": name, "images": len(y), "classes": len(classes), "seeds": seeds, "batch": BATCH,
        "most": most, "full": round(full, 4), "goal": round(GOAL * full, 4), "arms": arms,
        "seconds": round(time.monotonic() - started),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", help="NAME=INDEX")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--most", type=int, default=600, help="labels")
    parser.add_argument("--json", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    rows = []
    for one in chosen.data:
        name, _, folder = one.partition("=")
        rows.append(measure(name, Path(folder), chosen.seeds, chosen.most))
        Console().print(json.dumps({**rows[-1], "arms": None}))
    write_json(chosen.json, rows)
    table = Table(
        "data", "full", "goal", "ask: labels", "by lot: labels", "ask / lot at 120 labels"
    )
    for row in rows:
        to = [row["arms"][how]["labels_to_goal"] or f"> {row['most']}" for how in ("ask", "by lot")]
        at = [row["arms"][how]["accuracy"].get("120", 0) for how in ("ask", "by lot")]
        table.add_row(
            row["data"],
            f"{row['full']:.3f}",
            f"{row['goal']:.3f}",
            *map(str, to),
            f"{at[0]:.3f} / {at[1]:.3f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
