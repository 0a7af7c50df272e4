"""Small commands that need no stage."""

from __future__ import annotations

import importlib.util
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from jepack import bundle as bundles
from jepack.bundle import origin, signing, standing
from jepack.errors import ArtifactError
from jepack.files import cache_root
from jepack.names import marked, marked_lines
from jepack.sources import caches
from jepack.terminal import options

SIGNATURES = {
    "none": ("none", "sign it: jepack sign BUNDLE --key KEY"),
    "unchecked": ("there", "not checked: give --public-key"),
    "valid": ("valid", "made by the private half of that key"),
}

NETWORK = {
    True: ("fits", "the one that config.json names has these weights and dimensions"),
    False: ("not compared", "torch and timm are not installed here"),
}


def cache(
    prune: Annotated[
        float | None,
        typer.Option(
            help="Remove what was longest unused until this many GB are left; 0 = all.",
            callback=options.within(options.GIGABYTES),
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the decoded images and fetched shards that are kept, and remove old ones.

    They lie in $JEPACK_CACHE (else ~/.cache); $JEPACK_CACHE_LIMIT (GB) bounds them without asking. What a
    run is using stays.

    Example: jepack cache --prune 20
    """
    limit = caches.limit_bytes()
    gone = caches.prune(int(prune * 1e9)) if prune is not None else []
    left = caches.entries()
    if as_json:
        told = {
            "folder": str(cache_root()),
            "limit_gb": None if limit is None else limit / 1e9,
            "kept": [{**asdict(entry), "path": str(entry.path)} for entry in left],
            "removed": [str(entry.path) for entry in gone],
        }
        print(json.dumps(told))
        return
    console = Console()
    kept_gb = sum(entry.bytes for entry in left) / 1e9
    bound = "no limit" if limit is None else f"limit {limit / 1e9:g} GB"
    table = Table("GB", "last used", "", "what", box=None)
    for entry in reversed(left):
        days = (time.time() - entry.used) / 86400
        used = "now" if entry.in_use else f"{days:.0f} days ago" if days >= 1 else "today"
        table.add_row(
            f"{entry.bytes / 1e9:.3f}", used, entry.kind, marked(entry.about or entry.path.name)
        )
    console.print(table)
    console.print(
        f"{len(left)} kept, {kept_gb:.3f} GB in {marked(cache_root())} ({bound})"
        + (f"; {len(gone)} removed, {sum(e.bytes for e in gone) / 1e9:.3f} GB" if gone else ""),
        highlight=False,
        soft_wrap=True,
    )


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
    compared = not problems and compares_networks()
    if compared:
        problems = network_problems(bundles.load(folder))
    if as_json:
        verdict = {"bundle": str(folder), "sound": not problems, "problems": problems}
        verdict["network_compared"] = compared
        bundle = None if problems else bundles.load(folder)
        told = {"source": origin.told(folder), "notes": standing.notes(bundle)} if bundle else {}
        print(json.dumps({**verdict, "signature": signature, **told}))
        raise typer.Exit(4 if problems else 0)
    console = Console()
    if problems:
        for problem in problems:
            console.print(f"[red]✗[/] {marked_lines(problem)}", highlight=False, soft_wrap=True)
        console.print(marked_lines(origin.mend(folder)), highlight=False, soft_wrap=True)
        raise typer.Exit(4)
    bundle = bundles.load(folder)
    table = Table(
        title=f"{marked(bundle.name)}: sound", title_style="bold green", show_header=False
    )
    for output in bundles.OUTPUTS:
        table.add_row(output, f"{bundle.dimensions[output]} dims", bundle.fingerprints[output])
    table.add_row("files", str(len(bundle.manifest["files"])), "SHA-256 of each matches")
    table.add_row("network", *NETWORK[compared])
    table.add_row("signature", *SIGNATURES[signature])
    table.add_row("gate", *gate_row(bundle))
    if source := origin.told(folder):
        table.add_row("source", "pulled", source)
    console.print(table)
    for note in standing.notes(bundle):
        console.print(f"[yellow]note:[/] {marked_lines(note)}", highlight=False, soft_wrap=True)


def compares_networks() -> bool:
    """Whether torch and timm are here, which know what network config.json names."""
    return all(importlib.util.find_spec(name) for name in ("torch", "timm"))


def network_problems(bundle: bundles.Bundle) -> list[str]:
    from jepack import network

    return [bundles.printable(problem) for problem in network.problems_of(bundle)]


def gate_row(bundle: bundles.Bundle) -> tuple[str, str]:
    if not bundle.manifest.get("gate"):
        return "not asked", f"judge it: jepack export {marked(bundle.folder)}"
    overridden = standing.forced(bundle)
    return ("[red]overridden[/]", marked(", ".join(overridden))) if overridden else ("passed", "")
