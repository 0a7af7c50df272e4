"""What a run shows and keeps while it goes: rich progress, JSONL, TensorBoard, other trackers."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from jepack.disk import disk_error
from jepack.files import write_bytes
from jepack.names import marked_lines
from jepack.sigreg import NULL_MEAN
from training.watch.curves import read_log
from training.watch.trackers import Tracker

LINE_EVERY_S = 15.0
# What the table at the end of a run shows, and what each figure means.
SHOWN = {
    "knn": "accuracy of the 20 nearest, held-out images",
    "linear": "accuracy of a logistic probe of fixed strength",
    "score": "loss / lambda^0.4 on fixed views; lower is better",
    "projection_rank": "effective rank",
    "embedding_rank": "effective rank",
    "patch_rank": "effective rank of the last feature map's places",
    "rankme": "RankMe of the embedding",
    "projection_statistic": "sliced distance from N(0, I)",
    "embedding_statistic": "the same, centred and scaled",
    "patch_statistic": "the same, centred and scaled",
}


class Monitor:
    """What a run shows and keeps; lives on the first rank only."""

    def __init__(
        self,
        run: Path,
        total: int,
        first_step: int,
        *,
        floor: float | None = NULL_MEAN,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        self.run, self.total, self.floor = run, total, floor
        self.trackers = trackers
        self.console = Console(stderr=True)
        self.started = time.monotonic()
        self.last_line = 0.0
        self.quality = ""
        from torch.utils.tensorboard import SummaryWriter

        run.mkdir(parents=True, exist_ok=True)
        again = trim(run / "log.jsonl", first_step)
        self.log: Any = (run / "log.jsonl").open("a", buffering=1)
        self.board: Any = SummaryWriter(str(run / "tensorboard"), purge_step=first_step)
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
        if self.console.is_terminal:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        self.log.close()
        self.board.close()
        for tracker in self.trackers:
            tracker.close()

    def set_total(self, total: int) -> None:
        self.total = total
        self.progress.update(self.task, total=total)

    def step(self, step: int, figures: dict[str, float]) -> None:
        """Figures of step `step` (counted from 0): loss, prediction, regulariser, images_per_s, ..."""
        self.keep({"step": step, **figures}, "train", step, figures)
        regulariser = ""
        if "regulariser" in figures:
            regulariser = f"  prediction {figures['prediction']:.3f}  "
            regulariser += f"regulariser {figures['regulariser']:.2f}"
            regulariser += f" (floor {self.floor:.2f})" if self.floor is not None else ""
        shown = (
            f"loss {figures['loss']:.3f}{regulariser}{self.quality}  "
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
        self.keep({"step": step, "evaluation": figures}, "evaluation", step, figures)
        self.quality = ""
        if "knn" in figures:
            self.quality = f"  kNN {figures['knn']:.3f} linear {figures['linear']:.3f}"
            self.quality += f" (majority {figures['majority']:.3f})"
        if "score" in figures:
            self.quality += f"  score {figures['score']:.3f}"

    def keep(self, line: dict[str, Any], group: str, step: int, figures: dict[str, float]) -> None:
        try:
            self.log.write(json.dumps(line) + "\n")
        except OSError as error:
            raise disk_error(error, self.run / "log.jsonl") from error
        named = {f"{group}/{name}": value for name, value in figures.items()}
        for name, value in named.items():
            self.board.add_scalar(name, value, step)
        for tracker in self.trackers:
            tracker.log(step, named)

    def table(self) -> None:
        """First and last of every evaluated figure; the first is that of the start, before any step."""
        entries = read_log(self.run)[1]
        evaluations = [entry["evaluation"] for entry in entries]
        table = Table(title="On held-out images", title_justify="left", box=None)
        first = "start" if entries and entries[0]["step"] == 0 else "first"
        for column in ("", first, "last", ""):
            table.add_column(column)
        for name, meaning in SHOWN.items():
            if evaluations and name in evaluations[-1]:
                values = [f"{entry[name]:.3f}" for entry in (evaluations[0], evaluations[-1])]
                table.add_row(name.replace("_", " "), *values, f"[dim]{meaning}[/]")
        self.console.print(table)

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        self.console.print(
            f"[yellow]warning:[/] {marked_lines(text)}", highlight=False, soft_wrap=True
        )


def trim(log: Path, first_step: int) -> dict[str, float]:
    """Drop lines of steps that will be done again after a resume.

    Steps count from 0, evaluations from the steps done before them: the one made just before the
    checkpoint bears its number and stays. Returns its figures, {} when there is none. Of a run that
    begins nothing stays: its start is evaluated again.
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
        if done <= first_step and first_step:
            kept.append(line)
            if "evaluation" in entry and done == first_step:
                last = entry["evaluation"]
    write_bytes(log, "".join(line + "\n" for line in kept).encode())
    return last
