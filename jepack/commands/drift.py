"""`jepack drift`: do these images still look like those the encoder was judged by? No torch here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.client import DEFAULT_URL, Client, Saved, read_saved
from jepack.commands import drift_picture
from jepack.errors import ArtifactError, listed
from jepack.files import check_writable
from jepack.measures import Comparison, Null, compare
from jepack.measures.null import ATYPICAL
from jepack.names import kept, marked, marked_lines, tell
from jepack.sources import Source, find_images
from jepack.terminal import bar as progress_bar
from jepack.terminal import options

DRIFTED = 9  # exit code


def drift(
    folder: Annotated[Path, typer.Argument(help="Bundle with a null.safetensors.")],
    images: Annotated[
        str, typer.Argument(help="An .npz of `jepack embed`, or images to send to the endpoint.")
    ],
    url: Annotated[
        str,
        typer.Option(help="gRPC address of the bundle's endpoint.", callback=options.address),
    ] = DEFAULT_URL,
    chance: Annotated[
        float,
        typer.Option(
            help="Of calling ordinary images drift.",
            callback=options.within(options.Limit(1e-6, 0.5)),
        ),
    ] = 0.01,
    in_order: Annotated[
        bool, typer.Option("--in-order", help="The images came one after another, as they stand.")
    ] = False,
    picture: Annotated[
        Path | None,
        typer.Option(help="Draw what was found into this PNG.", callback=options.picture_to_write),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare a set of images with the held-out images of a bundle. Exit code 9 when they have drifted.

    Examples:
      jepack drift runs/photos/bundle photos-of-june.npz --picture june.png
      jepack drift runs/photos/bundle photos-of-june/ --url 127.0.0.1:8001
    """
    if picture is not None:
        check_writable(picture)
    bundle = bundles.load(folder)
    null = bundle.null()
    if null is None:
        raise ArtifactError(
            f"{folder}: holds no {bundles.NULL}, which 64 or more held-out images give. Make it: "
            f"jepack export {folder} --data IMAGES"
        )
    found = (
        read_saved(Path(images), "projection") if images.endswith(".npz") else embedded(images, url)
    )
    refuse_other_space(bundle, found, images)
    result = compare(null, found.vectors, chance=chance, in_order=in_order)
    strangest = [(kept(found.names[row]), p) for row, p in result.most_atypical]
    if picture is not None:
        drift_picture.draw(null, result, f"{kept(images)} beside {bundle.name}", picture)
    if as_json:
        told = {"bundle": bundle.name, "images_from": images, **result.to_json()}
        print(json.dumps({**told, "most_atypical": [{"image": n, "p": p} for n, p in strangest]}))
    else:
        show(result, null, f"{marked(images)} beside {marked(bundle.name)}", Console())
        if result.drift:
            lines = [f"  {p:.4f}  {marked(name)}" for name, p in strangest]
            Console().print("Most atypical (p-value, image):\n" + "\n".join(lines), highlight=False)
        if picture is not None:
            Console().print(f"[green]Wrote[/] {marked(picture)}", highlight=False)
    if result.drift:
        raise typer.Exit(DRIFTED)


def embedded(data: str, url: str) -> Saved:
    """Projections of the images of a folder, manifest, ..., by a running endpoint; bad ones are told."""
    source, notes = Source.of(data), list[str]()
    files = find_images(source, parts=True, notes=notes)
    console = Console(stderr=True)
    tell(console, notes)
    with Client(url) as client, progress_bar(console, transient=True) as bar:
        task = bar.add_task("embedding", total=len(files))
        found = client.embed(
            [file.path if file.part is None else file for file in files],
            skip_bad=True,
            on_progress=lambda done: bar.update(task, completed=done),
        )
    if found.errors:
        bad = listed((files[number].name, reason) for number, reason in found.errors.items())
        console.print(
            f"[yellow]{len(found.errors)} bad images left out:[/]\n{marked_lines(bad)}",
            soft_wrap=True,
        )
    good = [file for file, fine in zip(files, found.good, strict=True) if fine]
    names = [file.name_below(source.base) for file in good]
    return Saved(names, found.projection[found.good], found.fingerprints["projection"])


def refuse_other_space(bundle: Bundle, found: Saved, source: str) -> None:
    wanted = bundle.fingerprints["projection"]
    if found.fingerprint != wanted:
        raise ArtifactError(
            f"{source}: projections of {found.fingerprint}, the bundle's are {wanted}. Embed the images "
            f"with this bundle: jepack serve {bundle.folder}, then jepack embed IMAGES --out FILE.npz"
        )


def show(result: Comparison, null: Null, title: str, console: Console) -> None:
    """The verdict and the windows; `title` may hold markup."""
    told = (
        f"[bold red]drift[/] after {result.alarm_at:,} images"
        if result.drift
        else "[green]ordinary[/]"
    )
    console.print(f"{title}: {told}", highlight=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("window, images", "largest z", f"alarm above {result.threshold:.1f}"):
        table.add_column(heading, justify="right")
    for length, z in result.windows.items():
        table.add_row(f"{length:,}", f"{z:.1f}", "[red]yes[/]" if z > result.threshold else "no")
    console.print(table)
    console.print(
        f"{result.images:,} images: mean shifted by {result.mean_shift:.2f} standard deviations, "
        f"{result.scale:.2f} times the variance, {result.atypical:.1%} atypical ({ATYPICAL:.0%} of ordinary "
        "ones). The null rests on "
        f"{null.images[0]:,} and {null.images[1]:,} held-out images.",
        highlight=False,
    )
