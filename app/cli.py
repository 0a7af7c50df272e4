"""`jepack index`, `jepack search` and `jepack app`."""

from __future__ import annotations

import json
import signal
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from app.store import VectorStore
from jepack.bundle import OUTPUTS
from jepack.client import DEFAULT_URL, Client
from jepack.errors import ConfigError, DataError, listed
from jepack.files import check_writable
from jepack.names import kept, marked, marked_lines, original, tell, valid
from jepack.sources import ImageFile, Source, find_images
from jepack.terminal import SIDE, options
from jepack.terminal import bar as progress_bar

if TYPE_CHECKING:
    from app.indexing import Indexed, Origin

UrlOption = Annotated[
    str,
    typer.Option(help="Endpoint of `jepack serve` (gRPC, host:port).", callback=options.address),
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
    url: UrlOption = DEFAULT_URL,
    output: Annotated[
        str | None, typer.Option(help="embedding or projection; default: what the bundle says.")
    ] = None,
    embeddings: Annotated[
        Path | None, typer.Option(help="Take the vectors from this .npz of `jepack embed`.")
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

    Example: jepack index photos/ --url 127.0.0.1:8001 --out runs/photos/index
    """
    from app import indexing
    from app.store import IndexInfo

    if output not in (None, *OUTPUTS):
        raise ConfigError(f"--output must be {' or '.join(OUTPUTS)}, found {output}")
    check_writable(out, replaced=True)
    named = Source.of(data).absolute()
    notes: list[str] = []
    images = find_images(named, parts=True, tile=tile, stride=tile_stride, notes=notes)
    base = named.base
    tell(Console(stderr=True), notes)
    started = time.monotonic()
    skipped: dict[ImageFile, str] = {}
    console = Console(stderr=True, quiet=as_json)
    with ExitStack() as stack, progress_bar(console, transient=True) as bar:
        task = bar.add_task("Indexing", total=len(images))

        advance = partial(bar.advance, task)
        if embeddings is not None:
            origin = indexing.of_file(embeddings, output, images, base, skipped, advance)
        else:
            client = stack.enter_context(Client(url))
            origin = indexing.of_endpoint(client, output, images, skipped, advance)
        info = IndexInfo(
            name=name or kept(named.path.name if named.path.is_dir() else named.path.stem),
            output=origin.output,
            dimension=0,
            fingerprint=origin.fingerprint,
            data=str(base),
            bundle=origin.bundle,
            data_license=data_license,
        )
        done = indexing.write_index(out, info, origin.parts, skipped, origin.window)
    seconds = time.monotonic() - started
    if as_json:
        told = {"index": str(out), **done.to_json(), "seconds": round(seconds, 2)}
        print(json.dumps({**told, "notes": list(origin.notes)}))
        return
    tell_indexed(out, done, origin, seconds)


def tell_indexed(out: Path, done: Indexed, origin: Origin, seconds: float) -> None:
    console = Console()
    for note in origin.notes:
        console.print(f"encoder: {note}", style="yellow", markup=False, soft_wrap=True)
    console.print(
        f"[green]✓[/] {marked(out)}: {done.info.count:,} images, {done.info.output} of "
        f"{done.info.dimension} dimensions, {seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    if done.narrow and origin.window is None:
        console.print(
            f"[yellow]note:[/] {done.narrow} images fill less than half of their depth, and the encoder's "
            "bundle tells no window: it may see few of 256 levels. `jepack inspect` names the --window to "
            "train or import with",
            highlight=False,
            soft_wrap=True,
        )  # fmt: skip
    if done.skipped:
        console.print(f"[yellow]{len(done.skipped)} images skipped:[/]", highlight=False)
        reasons = marked_lines(listed(done.skipped.items(), 5))
        console.print(reasons, highlight=False, soft_wrap=True)
    console.print(f"Open it: jepack app {marked(out)}", highlight=False, soft_wrap=True)


def search(
    folder: Annotated[Path, typer.Argument(metavar="INDEX", help="Index folder.")],
    image: Annotated[str, typer.Argument(help="An image file, or the id of an indexed image.")],
    k: Annotated[int, typer.Option(help="How many neighbours.", min=1, max=1_000_000)] = 10,
    url: UrlOption = DEFAULT_URL,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the images of an index that are nearest to one image, by cosine distance.

    A file is embedded through the endpoint; the id of an indexed image needs no endpoint.

    Example: jepack search runs/photos/index new.jpg --k 5
    """
    from app.lance import open_index
    from app.search import by_id, by_image

    store = open_index(folder)
    if Path(image).is_file():
        with Client(url) as client:
            _, hits = by_image(store, Path(image), client, k)
    elif (found := stored_id(store, image)) is not None:
        _, hits = by_id(store, found, k)
    else:
        raise DataError(f"{image}: neither an image file nor the id of an image in {folder}")
    rows = [
        {
            "rank": rank,
            "distance": round(hit.distance, 8),
            "label": hit.row.label,
            "path": str(Path(store.info.data) / original(hit.row.id)),
        }
        for rank, hit in enumerate(hits, start=1)
    ]
    if as_json:
        print(json.dumps({"query": image, "index": str(folder), "neighbours": rows}))
        return
    table = Table("rank", "distance", "label", "path", title=f"Nearest to {marked(image)}")
    for row in rows:
        table.add_row(
            str(row["rank"]),
            f"{row['distance']:.4f}",
            marked(row["label"] or "–"),
            marked(row["path"]),
        )
    Console().print(table)


def stored_id(store: VectorStore, name: str) -> str | None:
    """The id of an indexed image by its id or its name as the file system has it."""
    return next((one for one in (kept(name), valid(name)) if store.has(one)), None)


def app(
    folder: Annotated[Path, typer.Argument(metavar="INDEX", help="Index folder.")],
    url: UrlOption = DEFAULT_URL,
    port: Annotated[
        int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)
    ] = 7860,
    browser: Annotated[bool, typer.Option("--open", help="Open it in your browser.")] = False,
) -> None:
    """Open the page over an index: click an image, or upload one, and see its neighbours.

    Only this machine can reach it (127.0.0.1); from another: ssh -L 7860:127.0.0.1:7860 HOST

    Example: jepack app runs/photos/index --port 7860
    """
    from app.page import launch

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that its folder goes, too
    with Console(stderr=True).status("Starting the page"):
        page = launch(folder, url=url, port=port)
    print(f"{page.url}  (Ctrl-C stops it)", flush=True)
    if browser:
        typer.launch(page.url)
    try:
        page.wait()
    finally:
        page.close()
