"""Small commands that need no stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from jepack import bundle as bundles
from jepack import signing
from jepack.errors import ArtifactError

SIGNATURES = {
    "none": ("none", "sign it: jepack sign BUNDLE --key KEY"),
    "unchecked": ("there", "not checked: give --public-key"),
    "valid": ("valid", "made by the private half of that key"),
}


def verify(
    folder: Annotated[Path, typer.Argument(help="Bundle to check.")],
    public_key: Annotated[
        Path | None, typer.Option(help="Require model.sig to be this key's signature (PEM).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a bundle against its manifest and explain each failure. Exit code 4 when it is unsound.

    Example: jepack verify runs/quickstart/bundle
    """
    problems = bundles.verify(folder)
    signature = "unchecked" if (folder / bundles.SIGNATURE).exists() else "none"
    if public_key is not None and not problems:
        try:
            signing.check(bundles.load(folder), public_key)
            signature = "valid"
        except ArtifactError as error:
            problems, signature = [str(error)], "invalid"
    if as_json:
        found = {"bundle": str(folder), "sound": not problems, "problems": problems}
        print(json.dumps({**found, "signature": signature}))
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
    table.add_row("signature", *SIGNATURES[signature])
    console.print(table)
