"""A run's log read back, and drawn: `curves.png`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jepack.sigreg import NULL_MEAN
from jepack.terminal import drawing

Entries = list[dict[str, Any]]
RANKS = (("projection_rank", "#7c3aed"), ("embedding_rank", "#db2777"), ("patch_rank", "#0891b2"))


def read_log(run: Path) -> tuple[Entries, Entries]:
    """(steps, evaluations) of a run, oldest first."""
    steps: Entries = []
    evaluations: Entries = []
    for line in (run / "log.jsonl").read_text().splitlines():
        entry = json.loads(line)
        (evaluations if "evaluation" in entry else steps).append(entry)
    return steps, evaluations


def threads_used(run: Path, first_step: int) -> dict[int, int]:
    """With how many threads the steps from `first_step` on were done, as far as the log tells."""
    threads: dict[int, int] = {}
    try:
        lines = (run / "log.jsonl").read_text().splitlines()
    except OSError:
        return threads
    for line in lines:
        try:
            entry = json.loads(line)
            if entry["step"] >= first_step and "threads" in entry:
                threads[int(entry["step"])] = int(entry["threads"])
        except (ValueError, KeyError, TypeError):
            continue  # a line cut short by a crash
    return threads


def draw_curves(run: Path, floor: float | None = NULL_MEAN) -> Path:
    """`curves.png`: loss parts with the regulariser's floor, accuracies, effective ranks, the score."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps, evaluations = read_log(run)
    figure = Figure(figsize=(15, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 4)
    loss, accuracy, rank, score = panels
    terms = (("loss", "#1f2937"), ("prediction", "#2563eb"), ("regulariser", "#d97706"))
    for name, colour in terms:
        if name in steps[0]:
            x = [entry["step"] + 1 for entry in steps]
            loss.plot(x, [entry[name] for entry in steps], label=name, color=colour, lw=1.3)
    if "regulariser" in steps[0] and floor is not None:
        loss.axhline(floor, color="#d97706", ls=":", lw=1, label=f"floor {floor:.2f}")
    loss.set(title="Loss", xlabel="step", yscale="log")
    loss.legend(frameon=False, fontsize=8)
    if draw(accuracy, evaluations, (("knn", "#059669"), ("linear", "#2563eb"))):
        last = evaluations[-1]["evaluation"]
        accuracy.axhline(last["majority"], color="#9ca3af", ls=":", label="majority class")
        accuracy.legend(frameon=False, fontsize=8)
    else:
        nothing(accuracy, "no labels")
    accuracy.set(title="Probes, held-out images", xlabel="step")
    if draw(rank, evaluations, RANKS):
        rank.legend(frameon=False, fontsize=8)
    rank.set(title="Effective rank", xlabel="step", ylim=(0, None))
    if not draw(score, evaluations, (("score", "#1f2937"),)):
        nothing(score, "LeJEPA with SIGReg only")
    score.set(title="Label-free score, lower is better", xlabel="step")
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    drawing.save(figure, run / "curves.png", dpi=120)
    return run / "curves.png"


def draw(axes: Any, evaluations: Entries, lines: Sequence[tuple[str, str]]) -> bool:
    """One line per figure that was evaluated; False when none was."""
    drawn = False
    for name, colour in lines:
        points = [
            (entry["step"], entry["evaluation"][name])
            for entry in evaluations
            if name in entry["evaluation"]
        ]
        if points:
            drawn = True
            label = name.removesuffix("_rank").replace("knn", "kNN")
            axes.plot(*zip(*points, strict=True), "o-", label=label, color=colour, lw=1.3, ms=3)
    return drawn


def nothing(axes: Any, why: str) -> None:
    axes.text(0.5, 0.5, why, ha="center", transform=axes.transAxes, color="#9ca3af")
