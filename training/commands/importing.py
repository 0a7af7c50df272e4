"""`jepack import`: wrap an encoder that was trained elsewhere as a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jepack.bundle import refuse_other_folder
from jepack.decoding import FITS
from jepack.disk import check_writable
from jepack.names import marked
from jepack.sources import Source
from jepack.terminal import SEED, idle, options

FEW_HELD_OUT = 64  # below that what is measured on them is rough


def crop_side(value: int) -> int:
    if value and value < 8:
        raise typer.BadParameter(f"must be 8 px or more, or 0, found {value}")
    return value


def grey_or_colour(value: int) -> int:
    if value not in (1, 3):
        raise typer.BadParameter(f"must be 1 or 3, found {value}")
    return value


def import_encoder(
    source: Annotated[
        str, typer.Argument(help="timm:NAME, hf:OWNER/REPO, a weights file, or a timm folder.")
    ],
    data: Annotated[str, typer.Option(help="Folder of your images: they set the projection.")],
    out: Annotated[
        Path, typer.Option(help="Bundle folder to write.", callback=options.folder_to_write)
    ],
    encoder: Annotated[
        str | None, typer.Option(help="timm name of the architecture of a weights file.")
    ] = None,
    size: Annotated[
        int,
        typer.Option(
            help="Side of the crop, px, 8 or more; 0 = the model's own.",
            callback=crop_side,
            max=8192,
        ),
    ] = 0,
    channels: Annotated[int, typer.Option(help="1 or 3.", callback=grey_or_colour)] = 3,
    fit: Annotated[
        str | None,
        typer.Option(
            help=f"How an image fills the square: {', '.join(FITS)}; default the model's own.",
            callback=options.fit,
        ),
    ] = None,
    window: Annotated[
        str | None, typer.Option(help="Values shown as 0..255: p1,p99 or lo,hi or dicom.")
    ] = None,
    projection_dims: Annotated[
        int, typer.Option(help="Width of the projection, at most.", min=1, max=65_536)
    ] = 64,
    license: Annotated[
        str | None, typer.Option(help="Licence of the weights; default what timm states.")
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(help="Manifest column, such as patient, whose groups are not parted."),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(help="Of the split into fitting and held-out images.", min=0, max=SEED),
    ] = 0,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1; default: a GPU if any.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Wrap any timm encoder as a bundle that exports and serves like a trained one.

    The pixels' mean and spread, size and crop are the model's own. Pickled weights are read as data
    only; a file that holds code is refused.

    Examples:
      jepack import timm:convnextv2_nano --data photos/ --out runs/own
      jepack import w.safetensors --encoder resnet18 --data photos/ --out own
    """
    if source.startswith(("timm:", "hf:")) or Path(source).is_dir():
        idle.refuse(
            idle.changed(import_encoder, locals()),
            ["encoder"],
            f"{source} names its own architecture",
        )
    from training.commands.weights import open_source
    from training.commands.wrapping import HELD_OUT_SHARE, wrap
    from training.parallel import choose_device

    refuse_other_folder(out)
    check_writable(out, replaced=True)
    chosen = choose_device(device)
    weights = open_source(source, encoder, channels, size)
    bundle = wrap(
        weights, Source.of(data), out, channels=channels, size=size, projection_dims=projection_dims,
        license=license or weights.stated.get("license") or "not stated", seed=seed, device=chosen,
        window=window, group_by=group_by, fit=fit,
    )  # fmt: skip
    if as_json:
        print(json.dumps({"bundle": str(bundle.folder), "fingerprints": bundle.fingerprints}))
        return
    console = Console()
    if weights.left_out:
        names = ", ".join(weights.left_out[:4]) + (" ..." if len(weights.left_out) > 4 else "")
        console.print(
            f"{len(weights.left_out)} tensors of the file are not the backbone's: {marked(names)}"
        )
    held_out = len(bundle.manifest["provenance"]["data"]["held_out"])
    if held_out < FEW_HELD_OUT:
        console.print(
            f"[yellow]note:[/] only {held_out} images are held out to judge it: its figures are rough. "
            f"{int(FEW_HELD_OUT / HELD_OUT_SHARE)} images in all, or more, do better",
            highlight=False,
            soft_wrap=True,
        )
    console.print(
        f"[bold green]Encoder ready[/] {marked(bundle.folder)}\n"
        f"  next         jepack export {marked(bundle.folder)}",
        highlight=False,
        soft_wrap=True,
    )
