"""Lines of a run beside its progress."""

from __future__ import annotations

from rich.console import Console

from jepack.names import marked_lines


def print_warning(text: str) -> None:
    Console(stderr=True).print(
        f"[yellow]warning:[/] {marked_lines(text)}", soft_wrap=True, highlight=False
    )


def print_line(text: str) -> None:
    Console(stderr=True).print(marked_lines(text), soft_wrap=True, highlight=False)
