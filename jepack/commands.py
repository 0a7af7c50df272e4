"""Small commands that need no stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from jepack import bundle as bundles


def verify(
    folder: Annotated[Path, typer.Argument(help="Bundle to check.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a bundle against its manifest and explain each failure. Exit code 4 when it is unsound.

    Example: jepack verify runs/quickstart/bundle
    """
    problems = bundles.verify(folder)
    if as_json:
        print(json.dumps({"bundle": str(folder), "sound": not problems, "problems": problems}))
        raise typer.Exit(4 if problems else 0)
    console = Console()
    if problems:
        for problem in problems:
            console.print(f"[red]✗[/] {problem}", highlight=False, soft_wrap=True)
        raise typer.Exit(4)
    bundle = bundles.load(folder)
    table = Table(title=f"{bundle.name}: sound", title_style="bold green", show_header=False)
    for output in bundles.OUTPUTS:
        table.add_row(output, f"{bundle.dimensions[output]} dims", bundle.fingerprints[output])
    table.add_row("files", str(len(bundle.manifest["files"])), "SHA-256 of each matches")
    console.print(table)
