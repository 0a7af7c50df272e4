"""`jepack index`."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from app.encoders import BundleOption
from app.milvus_address import NEEDED
from jepack.bundle import OUTPUTS
from jepack.client import DEFAULT_URL
from jepack.disk import check_writable
from jepack.errors import ConfigError, listed
from jepack.names import marked, marked_lines, tell
from jepack.sources import Source, find_images
from jepack.terminal import SIDE, idle, options

if TYPE_CHECKING:
    from app.engine import Engine
    from app.indexing import Indexed, Origin


def index(
    data: Annotated[
        str, typer.Argument(help="Folder of images (its class folders are labels), manifest, ...")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Index folder to write (replaced when it exists).",
            callback=options.folder_to_write,
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(help="Write it to Milvus instead: http(s)://HOST:PORT#NAME, or PATH.db."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            help=f"{options.ENDPOINT} Default: {DEFAULT_URL}; with --update the bundle that the index was "
            "made with, if it is there.",
            callback=options.address,
        ),
    ] = None,
    bundle: BundleOption = None,
    update: Annotated[
        bool, typer.Option("--update", help="Embed only images that are new or changed.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="With --update: drop images that are gone.")
    ] = False,
    output: Annotated[
        str | None, typer.Option(help="embedding or projection; default: what the bundle says.")
    ] = None,
    embeddings: Annotated[
        Path | None,
        typer.Option(help="Take the vectors from this file or folder of `jepack embed`."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Shown on the page; default: data folder.")
    ] = None,
    data_license: Annotated[
        str | None, typer.Option("--license", help="Licence of the images, shown on the page.")
    ] = None,
    recall: Annotated[
        float | None,
        typer.Option(
            help="Search approximately where that finds this share of the nearest; 1: exactly. "
            "Default: 0.95 from 2,000,000 images on, else 1.",
            min=0,
            max=1,
        ),
    ] = None,
    tile: Annotated[
        int, typer.Option(help="Side of windows cut from large TIFFs, px.", min=0, max=SIDE)
    ] = 0,
    tile_stride: Annotated[
        int, typer.Option(help="From window to window, px; 0 = --tile.", min=0, max=SIDE)
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Build a vector index of a folder of images, with small pictures for the page.

    An index already at --out or --to is replaced only when the new one is whole. A server's token stands in
    JEPACK_MILVUS_TOKEN, or in the file that JEPACK_MILVUS_TOKEN_FILE names.

    Examples:
      jepack index photos/ --url 127.0.0.1:8001 --out runs/photos/index
      jepack index photos/ --bundle runs/photos/bundle --out index --update
      jepack index photos/ --bundle B --to http://127.0.0.1:19530#photos
    """
    from app import approximate
    from app.building import Plan, build
    from app.engine import engine_for
    from app.engines import folder_of, open_index, there
    from app.opening import engine_of
    from app.updating import Kept

    given_options = idle.changed(index, locals())
    if embeddings is not None:
        why = f"--embeddings takes the vectors from {embeddings}, and nothing is embedded"
        idle.refuse(given_options, ["url", "bundle"], why)
    idle.refuse_stride_alone(given_options)
    if prune and not update:
        raise ConfigError("--prune goes with --update: without it the index is built anew")
    if update and embeddings is not None:
        raise ConfigError(
            "--update embeds what is new, and --embeddings has all vectors already. Leave one out"
        )

    if recall is not None and to is not None:
        raise ConfigError(
            "--recall is of an index in a folder, and --to names a server. Leave one out"
        )
    if output not in (None, *OUTPUTS):
        raise ConfigError(f"--output must be {' or '.join(OUTPUTS)}, found {output}")
    where = target(out, to)
    named = Source.of(data).absolute()
    notes: list[str] = []
    images = find_images(named, parts=True, tile=tile, stride=tile_stride, notes=notes)
    tell(Console(stderr=True), notes)
    started = time.monotonic()
    plan = Plan(named=named, images=images, output=output, name=name, data_license=data_license)
    plan = replace(plan, recall=recall)
    kept = None
    given: Engine | Path | None = embeddings
    if update and there(where):  # else there is nothing to keep
        old = open_index(where)
        given = engine_of(old.info, url, bundle, old.folder)
        plan = replace(plan, output=output or old.info.output, name=name or old.info.name)
        plan = replace(plan, data_license=data_license or old.info.data_license)
        before = approximate.read(folder_of(where))
        if recall is None and before is not None:
            plan = replace(plan, recall=before.least)
        kept = Kept(old, named.base, prune=prune)
    if given is None:
        given = engine_for(url, bundle)
    done, origin = build(where, plan, given, Console(stderr=True, quiet=as_json), kept)
    seconds = time.monotonic() - started
    if as_json:
        told = {"index": str(where), **done.to_json(), "seconds": round(seconds, 2)}
        print(json.dumps({**told, "notes": [*origin.notes, *origin.joined]}))
        return
    tell_indexed(where, done, origin, seconds, prune)


def target(out: Path | None, to: str | None) -> Path | str:
    """Where the index goes, looked at before any work. Raises ConfigError, ArtifactError or ServerError."""
    from app.engines import address_of, there

    if (out is None) == (to is None):
        raise ConfigError(
            "An index goes to a folder (--out FOLDER) or to Milvus (--to http://HOST:PORT#NAME, or --to "
            f"PATH.db). Name {'one of them' if out is None else 'only one'}"
        )
    if to is not None and address_of(to) is None:
        raise ConfigError(f"--to {to}: {NEEDED}. A folder is named by --out")
    where = to or out
    assert where is not None
    if address_of(where) is not None:
        there(where)
    elif out is not None:
        check_writable(out, replaced=True)
    return where


def tell_indexed(
    out: Path | str, done: Indexed, origin: Origin, seconds: float, pruned: bool
) -> None:
    console = Console()
    for note in origin.notes:
        console.print(f"encoder: {note}", style="yellow", markup=False, soft_wrap=True)
    tell(console, origin.joined)
    console.print(
        f"[green]✓[/] {marked(out)}: {done.info.count:,} images, {done.info.output} of "
        f"{done.info.dimension} dimensions, {seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    if done.approximate is not None:
        style = "" if done.approximate.used else "yellow"
        console.print(done.approximate.told(), style=style, highlight=False, soft_wrap=True)
    if done.same or done.gone:
        console.print(told_of_update(done, pruned), highlight=False, soft_wrap=True)
    if done.narrow and origin.window is None:
        console.print(
            f"[yellow]note:[/] {done.narrow} images fill less than half of their depth, and the encoder's "
            "bundle tells no window: it may see few of 256 levels. `jepack inspect` names the --window to "
            "train or import with",
            highlight=False,
            soft_wrap=True,
        )  # fmt: skip
    if done.elongated:
        console.print(f"[yellow]note:[/] {done.elongated}", highlight=False, soft_wrap=True)
    if done.skipped:
        console.print(f"[yellow]images skipped: {len(done.skipped)}[/]", highlight=False)
        reasons = marked_lines(listed(done.skipped.items(), 5))
        console.print(reasons, highlight=False, soft_wrap=True)
    console.print(f"Open it: jepack app {marked(out)}", highlight=False, soft_wrap=True)


def told_of_update(done: Indexed, pruned: bool) -> str:
    new = done.info.count - done.same - (0 if pruned else done.gone)
    told = f"{done.same:,} as they were, {new:,} embedded now"
    if not done.gone:
        return told
    return told + f", {done.gone:,} gone and {'dropped' if pruned else 'kept (--prune drops them)'}"
