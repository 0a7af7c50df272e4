"""Does the label-free score rank runs as a probe would? Spearman correlation over a sweep.

    python -m benchmarks.label_free --out runs/label-free             # land tiles, 22 unlike runs
    python -m benchmarks.label_free --out runs/label-free --quick     # land tiles, 12 runs that are alike
    python -m benchmarks.label_free --out runs/label-free --solar     # solar cells, 20 runs, an hour

The first takes runs as unlike as the paper's, good and bad: lambda over two decades, rates from one that
learns nothing to one that is too fast, half an epoch to twelve, other projectors. Correlations are taken
over all runs, over those with lambda up to 0.1, and over those of one lambda.

Probes are means over five splits: the runs' own, whose test images none has trained on, and four that test
on images seen without labels, too. The score sees training images and no label.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from jepack import bundle as bundles
from jepack.encoder import load_encoder
from jepack.files import write_json
from jepack.sources import demo, find_images
from training.commands.probe import read_images, score
from training.commands.sweeping import Run, combinations, run_all
from training.data import training_split
from training.settings import TrainConfig, recipe
from training.watch import features, read_log

QUICK_GRID = ["sigreg_weight=0.005,0.02,0.1,0.4", "learning_rate=1e-4,5e-4,2e-3"]
GRID = ["sigreg_weight=0.005,0.01,0.02,0.05,0.2", "learning_rate=1e-4,5e-4,1e-3,2e-3"]
RATE = 1e-3  # of UNLIKE
UNLIKE: list[dict[str, Any]] = [
    *({"sigreg_weight": weight} for weight in (0.005, 0.02, 0.05, 0.1, 0.3, 0.5)),
    *({"learning_rate": RATE * factor} for factor in (0.03, 0.1, 0.3, 3.0, 10.0)),
    *({"epochs": epochs} for epochs in (0.5, 1.5, 3.0, 12.0)),
    *({"projector_layers": layers} for layers in (1, 2)),
    {"sigreg_weight": 0.005, "learning_rate": RATE * 0.1},
    {"sigreg_weight": 0.005, "learning_rate": RATE * 3},
    {"sigreg_weight": 0.3, "learning_rate": RATE * 0.1},
    {"sigreg_weight": 0.3, "learning_rate": RATE * 3},
    {"sigreg_weight": 0.02, "epochs": 2.0},
]
SPLITS = 5  # of the probes
TAIL = 10  # steps over which the loss that training reported is averaged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/label-free"))
    parser.add_argument("--quick", action="store_true", help="land tiles, 12 runs of 4 epochs")
    parser.add_argument("--solar", action="store_true", help="solar cells, 20 runs of 8 epochs")
    parser.add_argument("--json", type=Path, help="write the table here")
    chosen = parser.parse_args()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    kind = "quick" if chosen.quick else "solar" if chosen.solar else "unlike"
    data, base, changes = {"quick": quick, "solar": solar, "unlike": unlike}[kind](chosen.out)
    folder = chosen.out / kind
    runs = run_all(base, [dict(one) for one in changes], data, folder)
    rows = [{**vars(run), **probed(run, folder, data, base)} for run in runs if run.score]
    result = {
        "data": data.name, "runs": len(rows), "failed": len(runs) - len(rows),
        "epochs": base.epochs, "encoder": base.encoder,
        **{f"spearman{name}": correlations(some) for name, some in subsets(rows, base).items()},
        "rows": rows,
    }  # fmt: skip
    show(result)
    write_json(chosen.json or folder / "label_free.json", result)


Setup = tuple[Path, TrainConfig, list[dict[str, Any]]]


def unlike(out: Path) -> Setup:
    """Land tiles again, through a ViT so small that its random features say little."""
    folder = demo.prepare("earth", out / "data")
    config = replace(
        recipe("quickstart"), encoder="test_vit", preset="satellite", size=32, eval_size=32,
        images_per_step=96, epochs=6.0, minutes=None, precision="fp32", evaluate_epochs=100.0,
        global_views=2, group_by="block", projection_dims=16, projector_hidden=256,
        learning_rate=RATE, sigreg_weight=0.05, weight_decay=5e-2, workers=1,
    )  # fmt: skip
    return folder, config, UNLIKE


def quick(out: Path) -> Setup:
    """Land tiles of 28 px seen from space. (On handwritten digits every run probes at 94 to 98 %.)"""
    folder = demo.prepare("earth", out / "data")
    config = replace(
        recipe("quickstart"), preset="satellite", size=32, eval_size=32, images_per_step=96, epochs=4.0,
        minutes=None, precision="fp32", evaluate_epochs=4.0, global_views=4, group_by="block",
    )  # fmt: skip
    return folder, config, combinations(config, QUICK_GRID)


def solar(out: Path) -> Setup:
    folder = demo.prepare("solar", out / "data")
    config = replace(
        recipe("quickstart"), preset="industrial", epochs=8.0, minutes=None, evaluate_epochs=8.0
    )
    return folder, config, combinations(config, GRID)


def probed(run: Run, folder: Path, data: Path, base: TrainConfig) -> dict[str, Any]:
    """Linear and kNN accuracy, and the loss training itself reported.

    The probes are means over splits: the run's own (tested on images it never saw) and others like it.
    """
    bundle = bundles.load(folder / run.name / "bundle")
    files = find_images(data)
    classes = sorted({str(file.label) for file in files})
    labels = np.array([classes.index(str(file.label)) for file in files])
    splits = [
        training_split(files, base.validation_fraction, base.seed + number, base.group_by)
        for number in range(SPLITS)
    ]
    images = read_images(files, bundle.preprocessing)
    embedding, _ = features(load_encoder(bundle)[0], images, bundle.preprocessing)
    found = [score(embedding, labels, *split) for split in splits]
    losses = [entry["loss"] for entry in read_log(folder / run.name)[0][-TAIL:]]
    weight = run.changed.get("sigreg_weight", base.sigreg_weight)
    return {
        "linear": float(np.mean([one.linear for one in found])),
        "linear_std": float(np.std([one.linear for one in found])),
        "probe_knn": float(np.mean([one.knn for one in found])),
        "reported_score": float(np.mean(losses)) / weight**0.4,
    }


def correlations(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Spearman between what needs no labels and accuracy; 1 = the same order, lower loss first."""
    result = {}
    for name, sign in (("score", -1), ("reported_score", -1), ("loss", -1), ("embedding_rank", 1)):
        values = [sign * row[name] for row in rows]
        result[name] = {
            accuracy: round(float(spearmanr(values, [row[accuracy] for row in rows])[0]), 3)
            for accuracy in ("linear", "probe_knn")
        }
    return result


def subsets(rows: list[dict[str, Any]], base: TrainConfig) -> dict[str, list[dict[str, Any]]]:
    """All runs, and those whose lambdas lie closer together."""
    weights = [row["changed"].get("sigreg_weight", base.sigreg_weight) for row in rows]
    pairs = list(zip(rows, weights, strict=True))
    return {
        "": rows,
        "_lambda_to_0.1": [row for row, weight in pairs if weight <= 0.1],
        "_one_lambda": [row for row, weight in pairs if weight == base.sigreg_weight],
    }


def show(result: dict[str, Any]) -> None:
    console = Console()
    table = Table(title=f"{result['runs']} runs on {result['data']}, best score first", box=None)
    for column in ("changed", "score", "loss", "linear probe", "kNN", "embedding rank"):
        table.add_column(column)
    for row in result["rows"]:
        table.add_row(
            "  ".join(f"{name}={value:g}" for name, value in row["changed"].items()),
            f"{row['score']:.3f}", f"{row['loss']:.3f}", f"{row['linear']:.3f}",
            f"{row['probe_knn']:.3f}", f"{row['embedding_rank']:.1f}",
        )  # fmt: skip
    console.print(table)
    for name in (name for name in result if name.startswith("spearman")):
        console.print(f"{name}, with accuracy:", json.dumps(result[name], indent=2))


if __name__ == "__main__":
    main()
