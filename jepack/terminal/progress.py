"""A progress bar for work that is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


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
