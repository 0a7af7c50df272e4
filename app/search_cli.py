"""`jepack search`."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.cells import cell_len, set_cell_size
from rich.console import Console

from app.encoders import BundleOption, UrlOption
from app.store import VectorStore
from jepack.errors import DataError
from jepack.names import kept, original, shown, valid
from jepack.terminal import idle

if TYPE_CHECKING:
    from app.belonging import Belonging


def search(
    where: Annotated[
        str, typer.Argument(metavar="INDEX", help="Index folder, or an address of Milvus.")
    ],
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
    there or lies beside the index, else by the endpoint at 127.0.0.1:8001; the id of an indexed image needs
    none. --tiles embeds the squares along the long side of an image, and says which of them a neighbour is
    near to.

    Examples:
      jepack search runs/photos/index new.jpg --k 5
      jepack search http://127.0.0.1:19530#photos new.jpg
    """
    from app import scale as scales
    from app.belonging import judge
    from app.engine import check_same_space
    from app.engines import open_index
    from app.opening import engine_of, naming_bundle
    from app.originals import read_original
    from app.search import by_id, by_image
    from app.tiles import by_tiles

    given = idle.changed(search, locals())
    store = open_index(where)
    is_file, tiled = Path(image).is_file(), None
    found = "" if is_file else stored_id(store, image)
    if found is None:
        raise DataError(f"{image}: neither an image file nor the id of an image in {where}")
    if not is_file and not tiles:
        idle.refuse(given, ["url", "bundle"], f"{image} is in the index, with its vector")
    if tiles:
        engine = engine_of(store.info, url, bundle, store.folder)
        check_same_space(engine, store.info, store.folder)
        channels = 3 if engine.bundle is None else engine.bundle.preprocessing.channels
        data = Path(image) if is_file else read_original(store.info, found)
        with naming_bundle(engine), closing(engine.connect()) as embedder:
            tiled = by_tiles(store, data, embedder, k, channels=channels, but=found)
        hits, atypicality = tiled.hits, engine.atypicality(tiled.projection)
    elif is_file:
        engine = engine_of(store.info, url, bundle, store.folder)
        check_same_space(engine, store.info, store.folder)
        with naming_bundle(engine), closing(engine.connect()) as embedder:
            answer = by_image(store, Path(image), embedder, k)
        hits, atypicality = answer.hits, engine.atypicality(answer.projection)
    else:
        hits, atypicality = by_id(store, found, k)[1], None
    scale = scales.read(store.folder, store.count())
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
            "index": str(where),
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
    console = Console()
    console.print(
        f"Nearest to {shown(image)}", style="italic", markup=False, highlight=False, soft_wrap=True
    )
    cells: list[tuple[str, ...]] = [
        ("rank", "distance", *(["tile"] if tiles else []), "label", "path")
    ]
    cells += [
        (
            str(row["rank"]),
            f"{row['distance']:.4f}",
            *([f"{row['tile']} of {tiles}"] if tiles else []),
            shown(row["label"] or "–"),
            shown(row["path"]),
        )
        for row in rows
    ]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    for number, row_cells in enumerate(cells):
        # No table of rich's: it cuts a path at the width of the terminal, or at 80 in a pipe.
        *before, path = row_cells
        text = "  ".join(
            set_cell_size(cell, width) for cell, width in zip(before, widths, strict=False)
        )
        style = "" if number else "bold"
        console.print(f"{text}  {path}", style=style, markup=False, highlight=False, soft_wrap=True)
    style = "yellow" if belonging.kind == "strange" else ""
    for line in (belonging.headline, *belonging.reasons):
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def stored_id(store: VectorStore, name: str) -> str | None:
    """The id of an indexed image by its id or its name as the file system has it."""
    return next((one for one in (kept(name), valid(name)) if store.has(one)), None)
