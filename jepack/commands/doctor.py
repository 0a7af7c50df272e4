"""`jepack doctor`: is this machine ready, and what to do where it is not."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from jepack.commands.checks import examine
from jepack.names import marked_lines


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check Python, libraries, GPU, Triton, ports and disk. Exit code 1 when something must be mended.

    Example: jepack doctor
    """
    checks = list(examine())
    failed = any(check.state == "fail" for check in checks)
    if as_json:
        print(json.dumps({"ready": not failed, "checks": [asdict(check) for check in checks]}))
        raise typer.Exit(1 if failed else 0)
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for _ in range(4):
        table.add_column(overflow="fold")  # a folder is told whole
    signs = {"ok": "[green]✓[/]", "warn": "[yellow]![/]", "fail": "[red]✗[/]"}
    for check in checks:
        told = (marked_lines(check.name), marked_lines(check.found), marked_lines(check.mend))
        table.add_row(signs[check.state], told[0], told[1], f"[dim]{told[2]}[/]")
    console = Console()
    console.print(table)
    console.print("[red]Not ready.[/]" if failed else "[green]Ready.[/]")
    raise typer.Exit(1 if failed else 0)
