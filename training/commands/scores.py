"""`jepack probe`: how much simple models get out of frozen features. The work is in the folder `probe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jepack.terminal import SEED, Limit, idle, options

TESTED_ON = Limit(0, 1, above=True, below=True)


def probe(
    encoder: Annotated[
        str, typer.Argument(help="Bundle or checkpoint folder, timm:NAME, random:NAME or imagenet.")
    ],
    data: Annotated[str, typer.Option(help="Folder with one subfolder per class.")],
    classes: Annotated[
        str | None, typer.Option(help="Comma-separated classes to use; default all.")
    ] = None,
    output: Annotated[str, typer.Option(help="embedding or projection.")] = "embedding",
    size: Annotated[
        int,
        typer.Option(help="Side for timm:, random: and imagenet encoders, px.", min=8, max=8192),
    ] = 224,
    test_fraction: Annotated[
        float,
        typer.Option(help="Share of images tested on.", callback=options.within(TESTED_ON)),
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Of the split.", min=0, max=SEED)] = 0,
    seeds: Annotated[
        int,
        typer.Option(help="Splits, counted from --seed; the mean is told.", min=1, max=10_000),
    ] = 1,
    group_by: Annotated[
        str | None, typer.Option(help="Manifest column no split may cut through, such as patient.")
    ] = None,
    control: Annotated[
        str | None, typer.Option(help="Manifest column probed beside the label, such as scanner.")
    ] = None,
    baselines: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            help="Also probe timm:NAME, random:NAME, random (the same network untrained), or imagenet "
            "(EfficientNet-Lite0, from a package: no download).",
        ),
    ] = None,
    save: Annotated[
        bool, typer.Option("--save/--no-save", help="Keep the results in the bundle and its card.")
    ] = True,
    keep: Annotated[
        str | None,
        typer.Option(
            help="Keep a probe in the bundle under this name, fitted on all but held-out images."
        ),
    ] = None,
    error_rate: Annotated[
        float,
        typer.Option(
            help="Wrong names that the kept probe may give; where it could not, it is unsure.",
            callback=options.within(TESTED_ON),
        ),
    ] = 0.1,
    picture: Annotated[
        Path | None,
        typer.Option(
            help="Picture of a map and of neighbours by each encoder.",
            callback=options.picture_to_write,
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1; default: a GPU if any.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Linear, kNN and few-shot probes on frozen features; the same protocol for every encoder.

    Examples:
      jepack probe runs/photos/bundle --data photos/ --classes good,crack
      jepack probe runs/photos/checkpoints/step-00000100 --data photos/
      jepack probe runs/photos/bundle --data list.csv --group-by patient
      jepack probe runs/photos/bundle --data photos/ --baseline random
      jepack probe runs/photos/bundle --data photos/ --picture seen.png
      jepack probe runs/photos/bundle --data photos/ --keep kinds
    """
    given = idle.changed(probe, locals())
    if keep is None:
        idle.refuse(given, ["error_rate"], "no probe is kept without --keep NAME")
    if not any(of_timm(name) for name in (encoder, *(baselines or ()))):
        idle.refuse(
            given,
            ["size"],
            "a bundle's crops have its own size; this is of timm:, random: and imagenet",
        )
    from training.commands.probe import run_probe

    run_probe(
        encoder, data, classes=classes, output=output, size=size, test_fraction=test_fraction, seed=seed,
        seeds=seeds, group_by=group_by, control=control, baselines=baselines, save=save, keep=keep,
        error_rate=error_rate, picture=picture, device=device, as_json=as_json,
    )  # fmt: skip


def of_timm(name: str) -> bool:
    """Whether the network is built here, for crops of --size."""
    return name == "imagenet" or name.startswith(("timm:", "random:"))
