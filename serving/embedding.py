"""`jepack embed`: the vectors of a folder of images into a file, or into a folder of parts."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import typer
from rich.console import Console

from jepack.client import DEFAULT_URL, Endpoint
from jepack.client.answers import outputs_of
from jepack.client.wire import MODEL
from jepack.disk import check_writable
from jepack.errors import ConfigError, DataError, listed
from jepack.names import marked, marked_lines, tell
from jepack.sources import Source, each_image
from jepack.terminal import SIDE, idle, options
from jepack.terminal import bar as progress_bar
from serving.bulk import (
    Job,
    Spool,
    Worker,
    at_endpoints,
    heads_of,
    here,
    on_cluster,
    store_for,
    work,
)
from serving.bulk.rows import Totals
from serving.command import MOST_IMAGES

SHOWN_BAD = 20
TOLD_BAD = 1000  # in JSON
ENGINES = ("endpoint", "local", "ray")
ENDINGS = (".npz", ".parquet")
LOG_EVERY_S = 60.0  # a line where no bar can be drawn
MOST_ROWS = 1_000_000


def place_to_write(value: Any) -> Any:
    """A file by its ending, else a folder."""
    is_file = value is not None and Path(value).suffix in ENDINGS
    return options.file_to_write(value) if is_file else options.folder_to_write(value)


def embed(
    data: Annotated[
        str, typer.Argument(help="Folder of images (subfolders name the class), manifest, ...")
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for Parquet parts, or one file: .parquet or .npz.", callback=place_to_write
        ),
    ],
    engine: Annotated[
        str,
        typer.Option(
            help="endpoint; local: --bundle in this process; ray: --bundle on a Ray cluster."
        ),
    ] = "endpoint",
    url: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{options.ENDPOINT} Several share the work. Default: {DEFAULT_URL}.",
            callback=options.addresses,
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Which one, where bundles are served by name: photos, photos@2.")
    ] = MODEL,
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle with an ONNX export, for --engine local and ray.")
    ] = None,
    probes: Annotated[
        list[str] | None,
        typer.Option(
            "--probe",
            help="Kept in --bundle: its class, probability and set become columns. Repeatable.",
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to join; without it one is started here.")
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Actors on the Ray cluster; 0 = one a core.", min=0, max=65_536)
    ] = 0,
    output: Annotated[
        str, typer.Option(help="Which rows to keep: embedding, projection or both.")
    ] = "both",
    batch_size: Annotated[
        int, typer.Option(help="Images per request.", min=1, max=MOST_IMAGES)
    ] = 16,
    concurrency: Annotated[
        int, typer.Option(help="Requests on their way at once, to each endpoint.", min=1, max=256)
    ] = 2,
    timeout_s: Annotated[
        float,
        typer.Option(
            help="Limit of one request, seconds.", callback=options.within(options.SECONDS)
        ),
    ] = 30.0,
    part_rows: Annotated[
        int, typer.Option(help="Rows of a part; also held in memory.", min=1, max=MOST_ROWS)
    ] = 4096,
    retry_bad: Annotated[
        bool, typer.Option("--retry-bad", help="Try images again that were refused before.")
    ] = False,
    tile: Annotated[
        int, typer.Option(help="Side of windows cut from large TIFFs, px.", min=0, max=SIDE)
    ] = 0,
    tile_stride: Annotated[
        int, typer.Option(help="From window to window, px; 0 = --tile.", min=0, max=SIDE)
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON summary.")] = False,
) -> None:
    """Embed images into a folder of Parquet parts or a file. Bad images are listed and left out.

    Parts are written as they are done: after an interruption the same command goes on where it was. An .npz
    is written at the end.

    Example: jepack embed photos/ --out photos.parquet
    Millions: jepack embed photos/ --out vectors --url gpu1:8001 --url gpu2:8001
    """
    given = idle.changed(embed, locals())
    outputs = outputs_of(output)
    check_words(out, engine, url, bundle, address, workers)
    refuse_idle(given, engine, out)
    heads, told_apart = heads_of(bundle, probes, outputs) if bundle and probes else ([], ())
    check_writable(out)
    source, notes = Source.of(data), list[str]()
    console = Console(stderr=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is done is written first
    start = monotonic()
    with ExitStack() as stack:
        served, crew = crew_of(
            engine,
            stack,
            urls=url or [DEFAULT_URL],
            bundle=bundle,
            address=address,
            workers=workers,
            model=model,
            timeout_s=timeout_s,
            outputs=outputs,
            batch_size=batch_size,
            concurrency=concurrency,
            notes=notes,
        )
        job = Job.of(source, tile, tile_stride, outputs, served, told_apart)
        store = stack.enter_context(store_for(out, job, retry_bad=retry_bad))
        stack.enter_context(told_to_go_on(console, out))
        with console.status("listing the images"):
            images = each_image(source, tile=tile, stride=tile_stride, notes=notes)
            refused = store.refused()
            spool = Spool(
                images,
                source.base,
                store.done(),
                store.place,
                refused=refused,
                repeats=source.kind == "manifest",
            )
        stack.callback(spool.close)
        tell(console, [*notes, *notes_of(spool, out)])
        with progress(console, spool) as (advance, note):
            work(
                spool.frames(part_rows),
                crew,
                store,
                job,
                batch_size=batch_size,
                heads=heads,
                on_rows=advance,
                on_note=note,
            )
        totals = store.totals(TOLD_BAD)
        if not totals.images:
            raise DataError(
                f"{data}: none of {totals.bad} images can be used.\n{listing(totals.reasons)}"
            )
        store.finish()
    seconds = monotonic() - start
    here_now = spool.there + spool.left - (totals.bad - len(refused))
    summary = {
        "out": str(out),
        "images": here_now,
        "gone": totals.images - here_now,  # rows of images that are not there any more
        "there": spool.there,
        "source": job.base,  # that the names of `bad`, and of the rows, count from
        "bad": totals.reasons,
        "bad_images": totals.bad,
        "seconds": round(seconds, 3),
        "images_per_s": round(spool.left / seconds, 2) if spool.left else None,
        "fingerprints": job.fingerprints,
    }
    if as_json:
        print(json.dumps(summary))
        return
    show(console, out, totals, summary)


@contextmanager
def told_to_go_on(console: Console, out: Path) -> Iterator[None]:
    """Ctrl-C or SIGTERM ends with what to do next; of an .npz nothing is written before the end."""
    try:
        yield
    except KeyboardInterrupt:
        if out.suffix != ".npz":
            tell(
                console,
                [f"what is done for {out} is written: the same command goes on with the rest"],
            )
        raise


def check_words(
    out: Path,
    engine: str,
    url: list[str] | None,
    bundle: Path | None,
    address: str | None,
    workers: int,
) -> None:
    """Refuse what does not go together, before any work."""
    if out.suffix not in ENDINGS and out.suffix[1:].isalpha() and not out.is_dir():
        raise ConfigError(
            f"--out must end in {' or '.join(ENDINGS)}, or be a folder's name without an ending; "
            f"found {out.name}"
        )
    if engine not in ENGINES:
        raise ConfigError(f"--engine is {', '.join(ENGINES)}; found {engine}")
    if engine == "endpoint" and bundle is not None:
        raise ConfigError(
            "--bundle is for --engine local or ray; an endpoint has its own: jepack serve BUNDLE"
        )
    if engine != "endpoint" and bundle is None:
        raise ConfigError(f"--engine {engine} needs --bundle BUNDLE")
    if engine != "endpoint" and url:
        raise ConfigError(f"--engine {engine} asks no endpoint: leave out --url")
    if engine != "ray" and (address is not None or workers):
        raise ConfigError("--address and --workers are for --engine ray")


def refuse_idle(given: list[str], engine: str, out: Path) -> None:
    """Refuse options that would have no effect. `given`: names as in `idle.changed`."""
    if engine != "endpoint":
        names = (
            ("model", "timeout_s") if engine == "local" else ("model", "timeout_s", "concurrency")
        )
        idle.refuse(given, names, f"--engine {engine} sends no requests")
    else:
        why = "probes are kept in a bundle, and an endpoint's own is not at hand (--engine local has it)"
        idle.refuse(given, ["probes"], why)
    if out.suffix == ".npz":
        idle.refuse(given, ["retry_bad"], "an .npz is written anew, with every image tried")
        idle.refuse(given, ["probes"], "columns of probes are of a table: a folder, or a .parquet")
    idle.refuse_stride_alone(given)


def crew_of(
    engine: str,
    stack: ExitStack,
    *,
    urls: list[str],
    bundle: Path | None,
    address: str | None,
    workers: int,
    model: str,
    timeout_s: float,
    outputs: tuple[str, ...],
    batch_size: int,
    concurrency: int,
    notes: list[str],
) -> tuple[Endpoint, list[Worker]]:
    """What the engine serves, and who embeds."""
    if engine == "endpoint":
        return at_endpoints(
            urls,
            stack,
            model=model,
            timeout_s=timeout_s,
            outputs=outputs,
            batch_size=batch_size,
            concurrency=concurrency,
            notes=notes,
        )
    assert bundle is not None
    if engine == "local":
        return here(bundle, batch_size=batch_size, concurrency=concurrency)
    return on_cluster(bundle, stack, address=address, workers=workers, batch_size=batch_size)


def notes_of(spool: Spool, out: Path) -> Iterator[str]:
    if spool.there:
        yield (
            f"{spool.there:,} of {spool.total:,} images are in {out} already, by their names; "
            "remove it to embed all of them anew"
        )
    if spool.refused:
        yield (
            f"{spool.refused:,} of {spool.total:,} images were refused before and are left out again; "
            "--retry-bad tries them once more"
        )
    if spool.again:
        yield f"{spool.again:,} rows of the manifest name an image again; it has one row"


@contextmanager
def progress(
    console: Console, spool: Spool
) -> Iterator[tuple[Callable[[int], None], Callable[[str], None]]]:
    """A bar with rate and time left, or a line a minute where none can be drawn; and how to tell a note."""
    start = said = monotonic()
    done = 0
    with progress_bar(console, speed=True) as bar:
        task = bar.add_task(
            "embedding", total=spool.total, completed=spool.total - spool.left, speed=""
        )

        def advance(count: int) -> None:
            nonlocal done, said
            done += count
            rate = done / (monotonic() - start)
            bar.update(task, advance=count, speed=f"{rate:.1f} images/s")
            if not console.is_terminal and monotonic() - said > LOG_EVERY_S:
                said = monotonic()
                left_min = (spool.left - done) / rate / 60
                console.print(
                    f"embedding {spool.total - spool.left + done}/{spool.total}, {rate:.1f} images/s, "
                    f"{left_min:.0f} min left",
                    highlight=False,
                )

        yield advance, lambda note: tell(console, [note])


def show(console: Console, out: Path, totals: Totals, summary: dict[str, Any]) -> None:
    if totals.bad:
        shown = marked_lines(listing(totals.reasons))
        console.print(
            f"[yellow]{totals.bad:,} bad images left out[/] (their names count from "
            f"{marked(summary['source'])}):\n{shown}",
            highlight=False,
            soft_wrap=True,
        )
    pace = summary["images_per_s"]
    gone = f" (and {summary['gone']:,} rows of images that are gone)" if summary["gone"] else ""
    told = "nothing was left to do" if pace is None else f"{pace} per second"
    console.print(
        f"[green]✓[/] {summary['images']:,} images, {told} -> {marked(out)}{gone}",
        highlight=False,
        soft_wrap=True,
    )


def listing(bad: dict[str, str]) -> str:
    return listed(bad.items(), SHOWN_BAD)
