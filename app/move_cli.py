"""`jepack index move`."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from jepack.names import marked
from jepack.terminal import bar as progress_bar

JOURNALS = {
    "none": "",
    "moved": "What people said of the images came along.",
    "other": "The new place has a journal of its own, which stays; the old one was not brought.",
}


def move(
    source: Annotated[
        str, typer.Argument(metavar="FROM", help="Index folder or address of Milvus.")
    ],
    target: Annotated[str, typer.Argument(metavar="TO", help="Index folder or address of Milvus.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an index of other data or encoder at TO.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Bring an index to another place or engine: every row, its picture, and what people said of it.

    The number of rows and a sample of them are compared before the new index takes its name. After an end on
    the way the same command goes on. The index at FROM stays as it is. One at TO is replaced where it is of
    the same data and encoder; any other only with --replace.

    Examples:
      jepack index move runs/photos/index http://127.0.0.1:19530#photos
      jepack index move http://127.0.0.1:19530#photos runs/photos/index
    """
    from app.engines import open_index
    from app.moving import move as moved

    started, console = time.monotonic(), Console(stderr=True, quiet=as_json)
    with progress_bar(console, transient=True) as bar:
        task = bar.add_task("Moving", total=open_index(source).count())
        done = moved(source, target, lambda count: bar.advance(task, count), replace_other=replace)
    seconds = time.monotonic() - started
    if as_json:
        print(json.dumps({"index": target, **asdict(done), "seconds": round(seconds, 2)}))
        return
    console = Console()
    again = f", {done.kept:,} of them by an earlier try" if done.kept else ""
    console.print(
        f"[green]✓[/] {marked(target)}: {done.count:,} images{again}, {seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    if said := JOURNALS[done.journal]:
        console.print(said, highlight=False, soft_wrap=True)
    console.print(
        f"{marked(source)} stays as it is. Open the new one: jepack app {marked(target)}",
        highlight=False,
        soft_wrap=True,
    )
