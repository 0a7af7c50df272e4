"""`jepack train`, also `python -m training` and `torchrun -m training`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from jepack import options
from jepack.errors import ConfigError
from jepack.names import marked
from jepack.source import Source
from training import trackers
from training.config import RECIPES, recipe
from training.overrides import name_of, override

Setting = Annotated[list[str] | None, typer.Option("--set", help="Any field: --set slices=512")]


def train(
    data: Annotated[
        str,
        typer.Argument(help="Folder of images, manifest, shards or other data; see docs/data.md."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Run folder; the same run found there is continued.",
            callback=options.folder_to_write,
        ),
    ] = Path("runs/train"),
    recipe_name: Annotated[
        str | None,
        typer.Option(
            "--recipe", help=f"One of {', '.join(RECIPES)}; default small-domain or ijepa."
        ),
    ] = None,
    method: Annotated[str | None, typer.Option(help="lejepa or ijepa.")] = None,
    encoder: Annotated[str | None, typer.Option(help="timm name.")] = None,
    preset: Annotated[str | None, typer.Option(help="View preset; see `jepack views`.")] = None,
    window: Annotated[
        str | None, typer.Option(help="Intensities shown: p1,p99 or lo,hi or dicom.")
    ] = None,
    group_by: Annotated[
        str | None, typer.Option(help="Manifest column that validation must not cut through.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Side of the global views, px.")] = None,
    images_per_step: Annotated[int | None, typer.Option(help="Over all ranks.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Micro-batches per step.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data.")] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Wall-clock budget of steps, evaluations and checkpoints."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="CPU threads that compute; default: what is fastest while it runs."),
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak.")] = None,
    sigreg_weight: Annotated[float | None, typer.Option(help="Lambda, in (0, 1).")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, bf16 or fp32.")] = None,
    init: Annotated[str | None, typer.Option(help="Bundle to start from.")] = None,
    max_bad: Annotated[float | None, typer.Option(help="Unreadable images allowed, 0..1.")] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="No cache: decode images when a step needs them.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Of weights, order and views.")] = None,
    settings: Setting = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1; default: a GPU if any.")
    ] = None,
    license: Annotated[
        str, typer.Option(help="Licence of the data, kept in the card.")
    ] = "not stated",
    log: Annotated[
        list[str] | None, typer.Option("--log", help="wandb or trackio, beside TensorBoard.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option(help="Start over; a run found in --out is moved aside.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Ten steps, then memory, speed and time; writes nothing."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train an encoder on your own images and write a bundle.

    Examples:
      jepack train photos/ --recipe small-domain --out runs/photos
      torchrun --nproc-per-node 4 -m training photos/ --recipe vit_small
    """
    config = recipe(recipe_name or ("ijepa" if method == "ijepa" else "small-domain"))
    given: dict[str, Any] = {
        "method": method, "encoder": encoder, "preset": preset, "size": size,
        "images_per_step": images_per_step, "accumulate": accumulate, "epochs": epochs,
        "minutes": minutes, "learning_rate": learning_rate, "sigreg_weight": sigreg_weight,
        "precision": precision, "init": init, "max_bad": max_bad, "seed": seed,
        "window": window, "group_by": group_by, "stream": stream or None,
        "threads": threads,
    }  # fmt: skip
    config = replace(config, **{name: value for name, value in given.items() if value is not None})
    for name in (name_of(setting, "--set") for setting in settings or []):
        if given.get(name) is not None:
            option = "--" + name.replace("_", "-")
            raise ConfigError(f"both {option} and --set name {name}; leave one of them out")
    config = override(config, settings or [])

    source = Source.of(data)
    trackers.check(log or [])
    if dry_run:
        from training import estimate as dry

        found = dry.estimate(config, source, device=device)
        if found is not None and as_json:
            print(json.dumps(found.to_json()))
        elif found is not None:
            dry.show(found)
        return
    from training import train as stage  # torch is imported only when training starts

    bundle = stage.train(
        config, source, out, device=device, fresh=fresh, license=license, log=log or ()
    )
    if bundle is None:
        return
    if as_json:
        print(json.dumps({"bundle": str(bundle.folder), "fingerprints": bundle.fingerprints}))
        return
    Console().print(
        f"\n[bold green]Encoder ready[/] {marked(bundle.folder)}\n"
        f"  curves       {marked(out / 'curves.png')}\n"
        f"  tensorboard  tensorboard --logdir {marked(out / 'tensorboard')}\n"
        f"  next         jepack export {marked(bundle.folder)}",
        highlight=False,
        soft_wrap=True,
    )
