"""`jepack train`, also `torchrun -m jepack train` and, in a checkout, `python -m training`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.console import Console

from jepack.errors import ConfigError
from jepack.names import marked
from jepack.sources import Source
from jepack.stages import page
from jepack.terminal import options
from jepack.terminal.assignments import names_of
from training.settings import GROUPS, RECIPES, TrainConfig, group_of, override, recipe

Setting = Annotated[list[str] | None, typer.Option("--set", help="Any field: --set slices=512")]

# Settings that have an option of their own; every other one is reached by --set.
OPTIONS = {
    "method": "lejepa or ijepa.",
    "encoder": "timm name.",
    "preset": "View preset; see `jepack views`.",
    "window": "Intensities shown: p1,p99 or lo,hi or dicom.",
    "fit": "How an image fills the square: crop (its middle), pad (all of it, with borders) or squash.",
    "group_by": "Manifest column that validation must not cut through.",
    "size": "Side of the global views, px.",
    "images_per_step": "Over all ranks.",
    "accumulate": "Micro-batches per step.",
    "epochs": "Passes over the data.",
    "minutes": "Wall-clock budget of steps, evaluations and checkpoints.",
    "threads": "CPU threads that compute; default: what is fastest while it runs.",
    "learning_rate": "Peak.",
    "sigreg_weight": "Lambda, in (0, 1).",
    "precision": "auto, bf16 or fp32.",
    "init": "Bundle to start from.",
    "max_bad": "Unreadable images allowed, 0..1.",
    "stream": "No cache: decode images when a step needs them.",
    "seed": "Of weights, order and views.",
}


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each of OPTIONS, of its field's type; None where it is not given."""
    hints = get_type_hints(TrainConfig)
    own = inspect.signature(command, eval_str=True)
    *shown, rest = own.parameters.values()
    del command.__annotations__[rest.name]
    order = list(GROUPS)
    for name, text in sorted(OPTIONS.items(), key=lambda one: order.index(group_of(one[0]))):
        # Named in full, a flag has no --no- beside it.
        words = ["--" + name.replace("_", "-")] if hints[name] is bool else []
        option = typer.Option(*words, help=text, rich_help_panel=group_of(name))
        kind = Annotated[hints[name] | None, option]  # type: ignore[valid-type]
        command.__annotations__[name] = kind  # typer asks both
        shown.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        )
    command.__signature__ = own.replace(parameters=shown)  # type: ignore[attr-defined]
    return command


@with_options
def train(
    *,
    data: Annotated[
        str,
        typer.Argument(
            help=f"Folder of images, manifest, shards or other data; see {page('data.md')}."
        ),
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
    **chosen: Any,
) -> None:
    """Train an encoder on your own images and write a bundle.

    Examples:
      jepack train photos/ --recipe small-domain --out runs/photos
      torchrun --nproc-per-node 4 -m jepack train photos/ --recipe vit_small
    """
    given = {name: value for name, value in chosen.items() if value is not None}
    usual = "ijepa" if given.get("method") == "ijepa" else "small-domain"
    config = replace(recipe(recipe_name or usual), **given)
    for name in names_of(settings or [], "--set"):
        if name in given:
            option = "--" + name.replace("_", "-")
            raise ConfigError(f"both {option} and --set name {name}; leave one of them out")
    config = override(config, settings or [])
    if config.init and ("encoder" in given or "encoder" in names_of(settings or [], "--set")):
        raise ConfigError(
            f"--encoder {config.encoder} beside --init {config.init}: the bundle names its own network; "
            "leave --encoder out"
        )

    from training.watch import trackers  # torch is imported only when training starts

    source = Source.of(data)
    trackers.check(log or [])
    if dry_run:
        from training.commands import dry_run as dry

        estimate = dry.estimate(config, source, device=device)
        if estimate is not None and as_json:
            print(json.dumps(estimate.to_json()))
        elif estimate is not None:
            dry.show(estimate)
        return
    from training import train as stage

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
