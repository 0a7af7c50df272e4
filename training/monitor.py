"""What a run shows and keeps while it goes: rich progress, JSONL, TensorBoard, a picture."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from jepack.files import write_bytes
from jepack.sigreg import NULL_MEAN

LINE_EVERY_S = 15.0


class Monitor:
    """Rank 0's eyes; on other ranks every call does nothing."""

    def __init__(
        self,
        run: Path,
        total: int,
        first_step: int,
        *,
        active: bool,
        floor: float | None = NULL_MEAN,
    ) -> None:
        self.run, self.total, self.active, self.floor = run, total, active, floor
        self.console = Console(stderr=True, quiet=not active)
        self.started = time.monotonic()
        self.last_line = 0.0
        self.knn = ""
        self.log: Any = None
        self.board: Any = None
        if not active:
            return
        from torch.utils.tensorboard import SummaryWriter

        run.mkdir(parents=True, exist_ok=True)
        again = trim(run / "log.jsonl", first_step)
        self.log = (run / "log.jsonl").open("a", buffering=1)
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=first_step)
        for name, value in again.items():  # it purges this step's evaluation too
            self.board.add_scalar(f"evaluation/{name}", value, first_step)
        self.progress = Progress(
            TextColumn("[bold]train[/]"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.task = self.progress.add_task("train", total=total, completed=first_step, figures="")

    def __enter__(self) -> Monitor:
        if self.active and self.console.is_terminal:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.active:
            self.progress.stop()
            self.log.close()
            self.board.close()

    def set_total(self, total: int) -> None:
        self.total = total
        if self.active:
            self.progress.update(self.task, total=total)

    def step(self, step: int, figures: dict[str, float]) -> None:
        """Figures of step `step` (counted from 0): loss, prediction, regulariser, images_per_s, ..."""
        if not self.active:
            return
        self.log.write(json.dumps({"step": step, **figures}) + "\n")
        for name, value in figures.items():
            self.board.add_scalar(f"train/{name}", value, step)
        regulariser = ""
        if "regulariser" in figures:
            regulariser = f"  prediction {figures['prediction']:.3f}  "
            regulariser += f"regulariser {figures['regulariser']:.2f}"
            regulariser += f" (floor {self.floor:.2f})" if self.floor is not None else ""
        shown = (
            f"loss {figures['loss']:.3f}{regulariser}{self.knn}  "
            f"{figures['images_per_s']:.0f} images/s  views {figures['cut_share']:.0%} of the step"
        )
        self.progress.update(self.task, completed=step + 1, figures=shown)
        now = time.monotonic()
        done = step + 1 == self.total
        if not self.console.is_terminal and (now - self.last_line > LINE_EVERY_S or done):
            self.last_line = now
            left = (
                (now - self.started)
                / max(1, self.progress.tasks[0].completed)
                * (self.total - step - 1)
            )
            self.console.print(
                f"step {step + 1}/{self.total}  {shown}  {left:.0f} s left", soft_wrap=True
            )

    def evaluation(self, step: int, figures: dict[str, float]) -> None:
        if not self.active:
            return
        self.log.write(json.dumps({"step": step, "evaluation": figures}) + "\n")
        for name, value in figures.items():
            self.board.add_scalar(f"evaluation/{name}", value, step)
        if "knn" in figures:
            self.knn = f"  kNN {figures['knn']:.3f} (majority {figures['majority']:.3f})"

    def say(self, text: str) -> None:
        if self.active:
            self.console.print(text, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        if self.active:
            self.console.print(
                f"[yellow]warning:[/] {escape(text)}", highlight=False, soft_wrap=True
            )


def trim(log: Path, first_step: int) -> dict[str, float]:
    """Drop lines of steps that will be done again after a resume.

    Steps count from 0, evaluations from the steps done before them: the one made just before the
    checkpoint bears its number and stays. Returns its figures, {} when there is none.
    """
    last: dict[str, float] = {}
    if not log.is_file():
        return last
    kept = []
    for line in log.read_text().splitlines():
        try:
            entry = json.loads(line)
            done = entry["step"] + ("evaluation" not in entry)
        except (ValueError, KeyError):
            continue  # a line cut short by a crash
        if done <= first_step:
            kept.append(line)
            if "evaluation" in entry and done == first_step:
                last = entry["evaluation"]
    write_bytes(log, "".join(line + "\n" for line in kept).encode())
    return last


def read_log(run: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(steps, evaluations) of a run, oldest first."""
    steps: list[dict[str, Any]] = []
    evaluations: list[dict[str, Any]] = []
    for line in (run / "log.jsonl").read_text().splitlines():
        entry = json.loads(line)
        (evaluations if "evaluation" in entry else steps).append(entry)
    return steps, evaluations


def draw_curves(run: Path, floor: float | None = NULL_MEAN) -> Path:
    """`curves.png`: loss parts with the regulariser's floor, kNN accuracy, effective ranks."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps, evaluations = read_log(run)
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    x = [entry["step"] + 1 for entry in steps]
    for name, colour in (
        ("loss", "#1f2937"),
        ("prediction", "#2563eb"),
        ("regulariser", "#d97706"),
    ):
        if name in steps[0]:
            left.plot(x, [entry[name] for entry in steps], label=name, color=colour, lw=1.3)
    if "regulariser" in steps[0] and floor is not None:
        left.axhline(floor, color="#d97706", ls=":", lw=1, label=f"floor {floor:.2f}")
    left.set(title="Loss", xlabel="step", yscale="log")
    left.legend(frameon=False, fontsize=8)
    at = [entry["step"] for entry in evaluations]
    figures = [entry["evaluation"] for entry in evaluations]
    if figures and "knn" in figures[0]:
        middle.plot(at, [entry["knn"] for entry in figures], "o-", color="#059669", lw=1.3, ms=3)
        middle.axhline(figures[0]["majority"], color="#9ca3af", ls=":", label="majority class")
        middle.legend(frameon=False, fontsize=8)
    else:
        middle.text(0.5, 0.5, "no labels", ha="center", transform=middle.transAxes, color="#9ca3af")
    middle.set(title="kNN accuracy, held-out images", xlabel="step")
    for name, colour in (("projection_rank", "#7c3aed"), ("embedding_rank", "#db2777")):
        values = [entry[name] for entry in figures]
        right.plot(at, values, "o-", label=name.replace("_rank", ""), color=colour, lw=1.3, ms=3)
    right.set(title="Effective rank", xlabel="step", ylim=(0, None))
    right.legend(frameon=False, fontsize=8)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    figure.savefig(run / "curves.png", dpi=120)
    return run / "curves.png"


@contextmanager
def counter(name: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar driven by (done, total); silent until there is something to count."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn(f"[bold]{name}[/]"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console,
    )  # fmt: skip
    task = bar.add_task(name, total=None)

    def show(done: int, total: int) -> None:
        if not bar.live.is_started and console.is_terminal:
            bar.start()
        bar.update(task, completed=done, total=total)
        if not console.is_terminal and done == total:
            console.print(f"{name} {done}/{total}")

    try:
        yield show
    finally:
        bar.stop()
