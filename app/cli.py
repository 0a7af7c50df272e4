"""`jepack index`, `jepack search` and `jepack app`."""

from __future__ import annotations

import json
import signal
import time
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from app.store import METADATA, VectorStore
from jepack.bundle import OUTPUTS
from jepack.client import DEFAULT_URL
from jepack.disk import check_writable
from jepack.errors import ConfigError, DataError, listed
from jepack.names import kept, marked, marked_lines, original, tell, valid
from jepack.sources import Source, find_images
from jepack.terminal import SIDE, options

if TYPE_CHECKING:
    from app.belonging import Belonging
    from app.engine import Engine
    from app.indexing import Indexed, Origin

UrlOption = Annotated[
    str | None,
    typer.Option(
        help=f"{options.ENDPOINT} Default: the index's own bundle if it is there, else {DEFAULT_URL}.",
        callback=options.address,
    ),
]
BundleOption = Annotated[
    Path | None, typer.Option(help="Embed with this bundle here; no endpoint needed.")
]


def index(
    data: Annotated[
        str, typer.Argument(help="Folder of images (its class folders are labels), manifest, ...")
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Index folder to write (replaced when it exists).",
            callback=options.folder_to_write,
        ),
    ],
    url: UrlOption = None,
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
    tile: Annotated[
        int, typer.Option(help="Side of windows cut from large TIFFs, px.", min=0, max=SIDE)
    ] = 0,
    tile_stride: Annotated[
        int, typer.Option(help="From window to window, px; 0 = --tile.", min=0, max=SIDE)
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Build a vector index of a folder of images, with small pictures for the page.

    An index already at --out is replaced only when the new one is whole.

    Examples:
      jepack index photos/ --url 127.0.0.1:8001 --out runs/photos/index
      jepack index photos/ --bundle runs/photos/bundle --out runs/photos/index --update
    """
    from app.building import Plan, build
    from app.engine import engine_for
    from app.lance import open_index
    from app.opening import engine_of
    from app.updating import Kept

    if prune and not update:
        raise ConfigError("--prune goes with --update: without it the index is built anew")
    if update and embeddings is not None:
        raise ConfigError(
            "--update embeds what is new, and --embeddings has all vectors already. Leave one out"
        )

    if output not in (None, *OUTPUTS):
        raise ConfigError(f"--output must be {' or '.join(OUTPUTS)}, found {output}")
    check_writable(out, replaced=True)
    named = Source.of(data).absolute()
    notes: list[str] = []
    images = find_images(named, parts=True, tile=tile, stride=tile_stride, notes=notes)
    tell(Console(stderr=True), notes)
    started = time.monotonic()
    plan = Plan(named=named, images=images, output=output, name=name, data_license=data_license)
    kept = None
    given: Engine | Path | None = embeddings
    if update and (out / METADATA).is_file():  # else there is nothing to keep
        old = open_index(out)
        given = engine_of(old.info, url, bundle)
        plan = replace(plan, output=output or old.info.output, name=name or old.info.name)
        plan = replace(plan, data_license=data_license or old.info.data_license)
        kept = Kept(old, named.base, prune=prune)
    if given is None:
        given = engine_for(url, bundle)
    done, origin = build(out, plan, given, Console(stderr=True, quiet=as_json), kept)
    seconds = time.monotonic() - started
    if as_json:
        told = {"index": str(out), **done.to_json(), "seconds": round(seconds, 2)}
        print(json.dumps({**told, "notes": list(origin.notes)}))
        return
    tell_indexed(out, done, origin, seconds, prune)


def tell_indexed(out: Path, done: Indexed, origin: Origin, seconds: float, pruned: bool) -> None:
    console = Console()
    for note in origin.notes:
        console.print(f"encoder: {note}", style="yellow", markup=False, soft_wrap=True)
    console.print(
        f"[green]✓[/] {marked(out)}: {done.info.count:,} images, {done.info.output} of "
        f"{done.info.dimension} dimensions, {seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
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


def search(
    folder: Annotated[Path, typer.Argument(metavar="INDEX", help="Index folder.")],
    image: Annotated[str, typer.Argument(help="An image file, or the id of an indexed image.")],
    k: Annotated[int, typer.Option(help="How many neighbours.", min=1, max=1_000_000)] = 10,
    tiles: Annotated[
        bool, typer.Option("--tiles", help="Search with the squares along its long side.")
    ] = False,
    url: UrlOption = None,
    bundle: BundleOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the images of an index that are nearest to one image, by cosine distance.

    A file is embedded by --bundle or --url, else by the bundle the index was made with where it is still
    there, else by the endpoint at 127.0.0.1:8001; the id of an indexed image needs none. --tiles embeds the
    squares along the long side of an image, and says which of them a neighbour is near to.

    Example: jepack search runs/photos/index new.jpg --k 5
    """
    from app import scale as scales
    from app.belonging import judge
    from app.engine import check_same_space
    from app.lance import open_index
    from app.opening import engine_of
    from app.originals import read_original
    from app.search import by_id, by_image
    from app.tiles import by_tiles

    store = open_index(folder)
    is_file, tiled = Path(image).is_file(), None
    found = "" if is_file else stored_id(store, image)
    if found is None:
        raise DataError(f"{image}: neither an image file nor the id of an image in {folder}")
    if tiles:
        engine = engine_of(store.info, url, bundle)
        check_same_space(engine, store.info, folder)
        channels = 3 if engine.bundle is None else engine.bundle.preprocessing.channels
        data = Path(image) if is_file else read_original(store.info, found)
        with closing(engine.connect()) as embedder:
            tiled = by_tiles(store, data, embedder, k, channels=channels, but=found)
        hits, atypicality = tiled.hits, engine.atypicality(tiled.projection)
    elif is_file:
        engine = engine_of(store.info, url, bundle)
        check_same_space(engine, store.info, folder)
        with closing(engine.connect()) as embedder:
            answer = by_image(store, Path(image), embedder, k)
        hits, atypicality = answer.hits, engine.atypicality(answer.projection)
    else:
        hits, atypicality = by_id(store, found, k)[1], None
    scale = scales.read(folder, store.count())
    belonging = judge(scale, hits, atypicality, new=is_file)
    rows = [
        {
            "rank": rank,
            "distance": round(hit.distance, 8),
            "nearer_than_pairs": scale and round(scale.nearer_than(hit.distance), 4),
            "label": hit.row.label,
            "path": str(Path(store.info.data) / original(hit.row.id)),
        }
        | ({} if tiled is None else {"tile": tiled.matched[rank - 1] + 1})
        for rank, hit in enumerate(hits, start=1)
    ]
    if as_json:
        told: dict[str, Any] = {
            "query": image,
            "index": str(folder),
            "belonging": asdict(belonging),
        }
        told |= {} if tiled is None else {"tiles": tiled.squares}
        print(json.dumps({**told, "neighbours": rows}))
        return
    show_neighbours(image, rows, belonging, 0 if tiled is None else len(tiled.squares))


def show_neighbours(
    image: str, rows: list[dict[str, Any]], belonging: Belonging, tiles: int
) -> None:
    """`tiles`: how many asked; 0 where the whole image did."""
    which = ("tile",) if tiles else ()
    table = Table("rank", "distance", *which, "label", "path", title=f"Nearest to {marked(image)}")
    for row in rows:
        table.add_row(
            str(row["rank"]),
            f"{row['distance']:.4f}",
            *([f"{row['tile']} of {tiles}"] if tiles else []),
            marked(row["label"] or "–"),
            marked(row["path"]),
        )
    console = Console()
    console.print(table)
    style = "yellow" if belonging.kind == "strange" else ""
    for line in (belonging.headline, *belonging.reasons):
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def stored_id(store: VectorStore, name: str) -> str | None:
    """The id of an indexed image by its id or its name as the file system has it."""
    return next((one for one in (kept(name), valid(name)) if store.has(one)), None)


def app(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="BUNDLE|INDEX",
            help="Index folder, or a bundle with --data; several are compared on the same images.",
        ),
    ],
    data: Annotated[
        str | None, typer.Option(help="Images to look at with a bundle; indexed beside it.")
    ] = None,
    url: UrlOption = None,
    bundle: BundleOption = None,
    port: Annotated[
        int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)
    ] = 7860,
    browser: Annotated[bool, typer.Option("--open", help="Open it in your browser.")] = False,
) -> None:
    """Open the page over an index, or over a bundle and a folder: click or upload an image.

    A bundle embeds uploads in this process; several bundles or indexes of the same images get a tab that
    compares them. Only this machine can reach the page (127.0.0.1); from another:
    ssh -L 7860:127.0.0.1:7860 HOST

    Example: jepack app runs/photos/bundle --data photos/
    """
    from app.opening import open_paths
    from app.page import open_page

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that its folder goes, too
    console = Console(stderr=True)
    desk = open_paths(paths, data, url, bundle, console)
    with console.status("Starting the page"):
        page = open_page(desk, port)
    print(f"{page.url}  (Ctrl-C stops it)", flush=True)
    if browser:
        typer.launch(page.url)
    try:
        page.wait()
    finally:
        page.close()
