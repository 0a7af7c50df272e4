"""`jepack inspect`: what a data set holds, what is broken and what looks odd."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from jepack.errors import DataError
from jepack.terminal import SIDE, idle, options


def inspect(
    data: Annotated[str, typer.Argument(help="Folder of images, manifest, shards or other data.")],
    max_bad: Annotated[
        float,
        typer.Option(
            help="Unreadable images allowed, 0..1.", callback=options.within(options.SHARE)
        ),
    ] = 0.01,
    sheet: Annotated[
        Path | None,
        typer.Option(help="Write a contact sheet to this PNG.", callback=options.picture_to_write),
    ] = None,
    window: Annotated[
        str | None, typer.Option(help="For the contact sheet: p1,p99 or lo,hi or dicom.")
    ] = None,
    tile: Annotated[
        int, typer.Option(help="Side of windows cut from large TIFFs, px.", min=0, max=SIDE)
    ] = 0,
    channels: Annotated[
        int,
        typer.Option(
            help="Of arrays whose shape does not tell them; 0 = by their shape.",
            min=0,
            max=65_536,
        ),
    ] = 0,
    workers: Annotated[int, typer.Option(help="Threads that decode.", min=1, max=1024)] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
) -> None:
    """Show what a data set holds, its bad files by name and reason, and what is suspicious.

    Exit code 3 when more than --max-bad of the images cannot be read.

    Example: jepack inspect photos/ --sheet contact.png
    """
    if sheet is None:
        idle.refuse(
            idle.changed(inspect, locals()), ["window"], "a window is of the contact sheet, --sheet"
        )
    from training.commands.inspection import facts_of, show_report

    facts = facts_of(
        data, tile=tile, workers=workers, channels=channels or None, sheet=sheet, window=window
    )
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        show_report(facts)
    bad, images = len(facts["bad"]), facts["images"]
    if bad > max_bad * images or bad == images:
        raise DataError(
            f"{bad} of {images} images cannot be read, the limit is {max_bad:.1%}. "
            "Mend or remove them, or raise --max-bad."
        )
