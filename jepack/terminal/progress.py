"""A progress bar for work that is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def bar(console: Console, *, transient: bool = False, speed: bool = False) -> Progress:
    """Name, bar, count and time left; with `speed` a text field `speed` of the task's own."""
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    if speed:
        columns.append(TextColumn("{task.fields[speed]}"))
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=transient)


@contextmanager
def counter(name: str, *, after_s: float = 0.0) -> Iterator[Callable[[int, int], None]]:
    """A progress bar driven by (done, total); silent until there is something to count, for `after_s`."""
    console, began = Console(stderr=True), monotonic()
    shown = bar(console)
    task = shown.add_task(f"[bold]{name}[/]", total=None)

    def show(done: int, total: int) -> None:
        told = monotonic() - began >= after_s
        if told and not shown.live.is_started and console.is_terminal:
            shown.start()
        shown.update(task, completed=done, total=total)
        if told and not console.is_terminal and done == total:
            console.print(f"{name} {done}/{total}")

    try:
        yield show
    finally:
        shown.stop()
