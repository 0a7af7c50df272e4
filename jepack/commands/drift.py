"""`jepack drift`: do these images still look like those the encoder was judged by? No torch here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from jepack.client import DEFAULT_URL, is_saved
from jepack.client.wire import MODEL
from jepack.commands import drift_live, drift_page, drift_picture
from jepack.commands.drift_sides import Ordinary, given, refuse_other_space, thumbnails_of
from jepack.disk import check_writable
from jepack.errors import ConfigError
from jepack.measures import Comparison, Null, compare
from jepack.measures.null import ATYPICAL
from jepack.names import kept, marked
from jepack.terminal import idle, options

DRIFTED, UNKNOWN = drift_live.DRIFTED, drift_live.UNKNOWN  # exit codes


def drift(
    beside: Annotated[
        str,
        typer.Argument(
            metavar="URL|BUNDLE|FILE",
            help="A gateway to ask; or what is ordinary: a bundle with a null.safetensors, or a file of "
            "`jepack embed`.",
        ),
    ],
    images: Annotated[
        str | None,
        typer.Argument(help="What `jepack embed` wrote, or images to send to the endpoint."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help=f"{options.ENDPOINT} Default: {DEFAULT_URL}.", callback=options.address),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Which one, where bundles are served by name: photos, photos@2."),
    ] = None,
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
    html: Annotated[
        Path | None,
        typer.Option(help="Write a report page, one file.", callback=options.file_to_write),
    ] = None,
    thumbnails: Annotated[
        bool, typer.Option("--thumbnails", help="Show the most atypical images on the page.")
    ] = False,
    key_file: Annotated[
        Path | None, typer.Option(help="Where a gateway's key stands; or JEPACK_KEY.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare images with the held-out images of a bundle, or ask a gateway how those it embeds compare.

    Exit code 0 for ordinary images, 9 when they have drifted, 10 when a gateway cannot tell (yet).

    Examples:
      jepack drift http://127.0.0.1:8080 --html drift.html
      jepack drift runs/photos/bundle photos-of-june.npz --picture june.png
      jepack drift runs/photos/bundle photos-of-june/ --url 127.0.0.1:8001
      jepack drift photos-of-may.npz photos-of-june.npz
    """
    asked = idle.changed(drift, locals())
    check(beside, images, html=html, thumbnails=thumbnails, picture=picture, key_file=key_file)
    refuse_idle(asked, beside, images)
    if images is None:
        raise typer.Exit(ask_gateway(beside, key_file, html, as_json, model))
    ordinary = Ordinary.of(beside)
    found, files = given(images, url or DEFAULT_URL, model or MODEL, int(ordinary.null.windows[0]))
    refuse_other_space(ordinary, found, images)
    result = compare(ordinary.null, found.vectors, chance=chance, in_order=in_order)
    strangest = [(kept(found.names[row]), p) for row, p in result.most_atypical]
    title = f"{kept(images)} beside {ordinary.name}"
    if picture is not None:
        drift_picture.draw(ordinary.null, result, title, picture)
    if html is not None:
        pictures: list[bytes | None] = [None] * len(strangest)
        if thumbnails and ordinary.preprocessing is not None:
            shown = [files[row] for row, _ in result.most_atypical]
            pictures = thumbnails_of(shown, ordinary.preprocessing)
        entries = [(*one, thumb) for one, thumb in zip(strangest, pictures, strict=True)]
        drift_page.write(html, [drift_page.of_images(ordinary.null, result, title, entries)])
    if as_json:
        told = {ordinary.kind: ordinary.name, "images_from": images, **result.to_json()}
        print(json.dumps({**told, "most_atypical": [{"image": n, "p": p} for n, p in strangest]}))
    else:
        show(result, ordinary.null, f"{marked(images)} beside {marked(ordinary.name)}", Console())
        if result.drift:
            lines = [f"  {p:.4f}  {marked(name)}" for name, p in strangest]
            Console().print("Most atypical (p-value, image):\n" + "\n".join(lines), highlight=False)
        for written in filter(None, (picture, html)):
            Console().print(f"[green]Wrote[/] {marked(written)}", highlight=False)
    if result.drift:
        raise typer.Exit(DRIFTED)


def check(
    beside: str,
    images: str | None,
    *,
    html: Path | None,
    thumbnails: bool,
    picture: Path | None,
    key_file: Path | None,
) -> None:
    """Refuse what does not go together, before any work."""
    if thumbnails and html is None:
        raise ConfigError("--thumbnails are of the page: --html FILE")
    if drift_live.is_web(beside):
        if images is not None or picture is not None or thumbnails:
            raise ConfigError(
                f"{beside} is asked how its own images compare; it keeps none, so images, --thumbnails and "
                "--picture belong to a bundle: jepack drift BUNDLE IMAGES. --html writes a page"
            )
    elif images is None:
        raise ConfigError(
            f"{beside} beside what? Name images or a file of `jepack embed` too. A gateway is asked by its "
            "address alone: jepack drift http://127.0.0.1:8080"
        )
    elif key_file is not None:
        raise ConfigError("--key-file is for a gateway, asked as http://host:port")
    elif thumbnails and (is_saved(beside) or is_saved(images)):
        raise ConfigError(
            "--thumbnails needs the images themselves, as the bundle's encoder sees them, and a file of "
            "embeddings holds none: jepack drift BUNDLE FOLDER"
        )
    for file in filter(None, (picture, html)):
        check_writable(file)


def refuse_idle(asked: list[str], beside: str, images: str | None) -> None:
    """Refuse options that would have no effect. `asked`: names as in `idle.changed`."""
    if images is None:
        names = ("url", "chance", "in_order")
        idle.refuse(asked, names, f"{beside} compares its own images, as it was started to")
    elif is_saved(images):
        idle.refuse(asked, ["url", "model"], f"{images} holds embeddings, and no endpoint is asked")


def ask_gateway(
    address: str, key_file: Path | None, html: Path | None, as_json: bool, model: str | None
) -> int:
    """Show what a gateway tells, of one model or of all; the exit code."""
    versions = drift_live.of_model(drift_live.ask(address, key_file), model)
    if html is not None:
        drift_page.write(html, [drift_page.of_gateway(told) for told in versions])
    if as_json:
        print(json.dumps({"object": "list", "data": versions}))
    else:
        for told in versions:
            drift_live.show(told, Console())
        if html is not None:
            Console().print(f"[green]Wrote[/] {marked(html)}", highlight=False)
    return drift_live.exit_code(versions)


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
        f"ones). The null rests on {null.held_out:,} held-out images."
        + (f" They look {result.likeliest}." if result.drift and result.likeliest else ""),
        highlight=False,
    )
