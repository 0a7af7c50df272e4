"""`jepack sweep`: short runs of a grid, ranked without labels."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from jepack.sources import Source
from jepack.stages import page
from jepack.terminal import options
from training.settings import RECIPES


def sweep(
    data: Annotated[str, typer.Argument(help="Folder of images, or other data.")],
    grid: Annotated[
        list[str], typer.Option("--grid", help="field=a,b,c; several give all combinations.")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder of the runs.", callback=options.folder_to_write)
    ] = Path("runs/sweep"),
    recipe_name: Annotated[
        str, typer.Option("--recipe", help=f"One of {', '.join(RECIPES)}.")
    ] = "small-domain",
    epochs: Annotated[
        float, typer.Option(help=f"Of every run; see {page('import.md')} on short ones.")
    ] = 50,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any field, for all runs.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; default: a GPU.")] = None,
    fresh: Annotated[
        bool, typer.Option(help="Move the grid's runs in --out aside and train them again.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the ranking as JSON.")] = False,
) -> None:
    """Train a grid of short LeJEPA runs and rank them without labels.

    Runs that are already in --out are continued or, when finished, not trained again.

    Example: jepack sweep photos/ --grid sigreg_weight=0.01,0.02,0.05
    """
    from training.commands.sweeping import base_of, combinations, run_all, show

    base = base_of(recipe_name, settings or [], epochs, grid)
    ranked = run_all(
        base, combinations(base, grid), Source.of(data), out, device=device, fresh=fresh
    )
    if as_json:
        print(json.dumps([asdict(run) for run in ranked]))
        return
    show(ranked, out)
