"""`jepack views`: a picture of what the encoder will be told is the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jepack.decoding import FITS
from jepack.names import marked
from jepack.terminal import SEED, options
from training.settings import PRESETS, TrainConfig, override
from training.settings import preset as preset_of

Setting = Annotated[
    list[str] | None, typer.Option("--set", help="Any knob of the preset: --set view.blur=0")
]


def views(
    data: Annotated[str, typer.Argument(help="Folder of images, manifest, shards or other data.")],
    preset_name: Annotated[
        str, typer.Option("--preset", help=f"One of {', '.join(PRESETS)}.")
    ] = "natural",
    out: Annotated[
        Path, typer.Option(help="Picture to write.", callback=options.picture_to_write)
    ] = Path("views.png"),
    images: Annotated[int, typer.Option(help="Images shown, a row each.", min=1, max=100)] = 5,
    global_views: Annotated[int, typer.Option(help="Large views per image.", min=1, max=32)] = 4,
    local_views: Annotated[int, typer.Option(help="Small views per image.", min=0, max=32)] = 3,
    size: Annotated[int, typer.Option(help="Side of a large view, px.", min=16, max=1024)] = 128,
    window: Annotated[
        str | None, typer.Option(help="Intensities shown: p1,p99 or lo,hi or dicom.")
    ] = None,
    fit: Annotated[
        str, typer.Option(help=f"As of train: {', '.join(FITS)}.", callback=options.fit)
    ] = "crop",
    seed: Annotated[int, typer.Option(help="Of the images and views.", min=0, max=SEED)] = 0,
    settings: Setting = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Draw the views of a few images, so that who knows the domain sees what is called "the same".

    Example: jepack views photos/ --preset industrial --out views.png
    """
    from training.commands.sheet import draw_sheet

    config = override(TrainConfig(preset=preset_name, fit=fit), settings or [])
    preset = preset_of(config.preset, config.view_overrides)
    shown = draw_sheet(
        data, out, config, images=images, views=(global_views, local_views), size=size,
        window=window, seed=seed,
    )  # fmt: skip
    facts = {
        "out": str(out),
        "preset": config.preset,
        "reason": preset.reason,
        "images": shown,
    }
    if as_json:
        print(json.dumps(facts))
        return
    Console().print(
        f"[green]✓[/] {marked(out)}\n[bold]{config.preset}[/]: {preset.reason}",
        highlight=False,
        soft_wrap=True,
    )
