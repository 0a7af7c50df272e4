"""`jepack embed`: the vectors of a folder of images, from a running endpoint into a file."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from jepack.client import DEFAULT_URL, Client, Embeddings
from jepack.client.wire import MODEL
from jepack.disk import check_writable
from jepack.errors import ConfigError, DataError, DependencyError, listed
from jepack.files import write_bytes
from jepack.names import marked, marked_lines, tell
from jepack.sources import ImageFile, Source, find_images
from jepack.terminal import SIDE, options
from jepack.terminal import bar as progress_bar
from serving.command import MOST_IMAGES

SHOWN_BAD = 20


def embed(
    data: Annotated[
        str, typer.Argument(help="Folder of images (subfolders name the class), manifest, ...")
    ],
    out: Annotated[
        Path,
        typer.Option(help="File to write: .npz or .parquet.", callback=options.file_to_write),
    ],
    url: Annotated[
        str, typer.Option(help=options.ENDPOINT, callback=options.address)
    ] = DEFAULT_URL,
    model: Annotated[
        str, typer.Option(help="Which one, where bundles are served by name: photos, photos@2.")
    ] = MODEL,
    batch_size: Annotated[
        int, typer.Option(help="Images per request.", min=1, max=MOST_IMAGES)
    ] = 16,
    concurrency: Annotated[
        int, typer.Option(help="Requests on their way at once.", min=1, max=256)
    ] = 2,
    timeout_s: Annotated[
        float,
        typer.Option(
            help="Limit of one request, seconds.", callback=options.within(options.SECONDS)
        ),
    ] = 30.0,
    tile: Annotated[
        int, typer.Option(help="Side of windows cut from large TIFFs, px.", min=0, max=SIDE)
    ] = 0,
    tile_stride: Annotated[
        int, typer.Option(help="From window to window, px; 0 = --tile.", min=0, max=SIDE)
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON summary.")] = False,
) -> None:
    """Embed a folder of images through a running endpoint. Bad images are listed and left out.

    Example: jepack embed photos/ --out photos.npz
    """
    if out.suffix not in WRITERS:
        raise ConfigError(f"--out must end in {' or '.join(WRITERS)}, found {out.name}")
    check_writable(out)
    source = Source.of(data)
    notes: list[str] = []
    files = find_images(source, parts=True, tile=tile, stride=tile_stride, notes=notes)
    console = Console(stderr=True)
    with (
        Client(url, model=model, timeout_s=timeout_s) as client,
        progress_bar(console, speed=True) as bar,
    ):
        client.endpoint()  # what keeps us from asking is told before what is known of the images
        tell(console, notes)
        start = time.monotonic()
        task = bar.add_task("embedding", total=len(files), speed="")

        def show(done: int, total: int) -> None:
            bar.update(
                task, completed=done, speed=f"{done / (time.monotonic() - start):.1f} images/s"
            )

        embeddings = client.embed(
            [file.path if file.part is None else file for file in files],
            batch_size=batch_size,
            concurrency=concurrency,
            on_progress=show,
            skip_bad=True,
        )
    seconds = time.monotonic() - start
    bad = {files[number].name: reason for number, reason in embeddings.errors.items()}
    if len(bad) == len(files):
        raise DataError(f"{data}: none of {len(files)} images can be used.\n{listing(bad)}")
    write_bytes(out, WRITERS[out.suffix](source, files, embeddings))
    summary = {
        "out": str(out),
        "images": len(files) - len(bad),
        "bad": bad,
        "seconds": round(seconds, 3),
        "images_per_s": round(len(files) / seconds, 2),
        "fingerprints": embeddings.fingerprints,
    }
    if as_json:
        print(json.dumps(summary))
        return
    if bad:
        console.print(
            f"[yellow]{len(bad)} bad images left out:[/]\n{marked_lines(listing(bad))}",
            soft_wrap=True,
        )
    console.print(
        f"[green]✓[/] {summary['images']} images, {summary['images_per_s']} per second -> "
        f"{marked(out)}",
        highlight=False,
        soft_wrap=True,
    )


def listing(bad: dict[str, str]) -> str:
    return listed(bad.items(), SHOWN_BAD)


def columns_of(source: Source, files: list[ImageFile], embeddings: Embeddings) -> dict[str, Any]:
    """Rows of the good images: names (see Source), labels ("" for none) and the two outputs."""
    kept = [file for file, good in zip(files, embeddings.good, strict=True) if good]
    return {
        "path": [file.name_below(source.base) for file in kept],
        "label": [file.label or "" for file in kept],
        "embedding": embeddings.embedding[embeddings.good],
        "projection": embeddings.projection[embeddings.good],
    }


def npz_bytes(source: Source, files: list[ImageFile], embeddings: Embeddings) -> bytes:
    columns = columns_of(source, files, embeddings)
    arrays: dict[str, Any] = {
        "path": np.array(columns["path"], dtype=np.str_),
        "label": np.array(columns["label"], dtype=np.str_),
        "embedding": columns["embedding"],
        "projection": columns["projection"],
    }
    for output, fingerprint in embeddings.fingerprints.items():
        arrays[f"fingerprint_{output}"] = np.str_(fingerprint)
    arrays["default_output"] = np.str_(embeddings.default_output)
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def parquet_bytes(source: Source, files: list[ImageFile], embeddings: Embeddings) -> bytes:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise DependencyError(
            "writing .parquet needs pyarrow. Install it: pip install pyarrow, or write .npz"
        ) from error
    columns = columns_of(source, files, embeddings)
    arrays = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
        if isinstance(values, np.ndarray)
        else pa.array(values, pa.string())
        for name, values in columns.items()
    }
    about = {f"fingerprint_{key}": value for key, value in embeddings.fingerprints.items()}
    about["default_output"] = embeddings.default_output
    stream = io.BytesIO()
    pq.write_table(pa.table(arrays).replace_schema_metadata(about), stream)
    return stream.getvalue()


WRITERS = {".npz": npz_bytes, ".parquet": parquet_bytes}
