"""`jepack serve` and `jepack embed`."""

from __future__ import annotations

import io
import json
import signal
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.panel import Panel

from jepack import bundle as bundles
from jepack.bundle import origin, standing
from jepack.client import DEFAULT_URL, Client, Embeddings
from jepack.errors import ConfigError, DataError, DependencyError, ServerError, listed
from jepack.files import check_writable, write_bytes
from jepack.machine import shared_memory
from jepack.names import marked, marked_lines, tell
from jepack.sources import ImageFile, Source, find_images
from jepack.terminal import SIDE, options
from jepack.terminal import bar as progress_bar
from serving.command import SERVICES
from serving.repository import RepositoryConfig, write_repository
from serving.server import TritonServer

CHECK_EVERY_S = 2.0
SHOWN_BAD = 20
MOST_IMAGES = 65_536  # of one request


def serve(
    bundle: Annotated[Path, typer.Argument(help="Bundle with an ONNX export.")],
    port: Annotated[
        int, typer.Option(help="gRPC port for clients; 0 picks one.", min=0, max=65535)
    ] = SERVICES["grpc"],
    http_port: Annotated[
        int, typer.Option(help="Health and metadata over HTTP.", min=0, max=65535)
    ] = SERVICES["http"],
    metrics_port: Annotated[
        int, typer.Option(help="Prometheus metrics.", min=0, max=65535)
    ] = SERVICES["metrics"],
    max_batch_size: Annotated[
        int, typer.Option(help="Images per request and encoder run.", min=1, max=MOST_IMAGES)
    ] = 16,
    threads: Annotated[int, typer.Option(help="CPU threads of the encoder.", min=1, max=1024)] = 2,
    tensorrt: Annotated[str, typer.Option(help="Production config: off, fp32 or fp16.")] = "off",
    repository_only: Annotated[
        Path | None,
        typer.Option(
            help="Write the model repository here and stop.", callback=options.folder_to_write
        ),
    ] = None,
    log_file: Annotated[
        Path | None,
        typer.Option(help="Where tritonserver's log goes.", callback=options.file_to_write),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON once ready.")] = False,
) -> None:
    """Serve a bundle on NVIDIA Triton, on this machine only, until Ctrl-C.

    Ready means that the bundle's golden images came back right. A server that breaks is restarted.

    Example: jepack serve runs/quickstart/bundle
    """
    console = Console(stderr=as_json)
    opened = bundles.load(bundle)
    for note in standing.notes(opened):
        console.print(f"[yellow]note:[/] {marked_lines(note)}", highlight=False, soft_wrap=True)
    config = RepositoryConfig(max_batch_size=max_batch_size, threads=threads, tensorrt=tensorrt)
    if repository_only is not None:
        write_repository(opened, repository_only, config)
        if as_json:
            print(
                json.dumps(
                    {"repository": str(repository_only), "fingerprints": opened.fingerprints}
                )
            )
        else:
            console.print(f"[green]✓[/] model repository in {marked(repository_only)}")
        return
    server = TritonServer(
        opened,
        http_port=http_port,
        grpc_port=port,
        metrics_port=metrics_port,
        config=config,
        log_file=log_file,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both end as KeyboardInterrupt
    if problem := shared_memory.tight():
        console.print(
            f"[yellow]warning:[/] {marked_lines(problem)}", highlight=False, soft_wrap=True
        )
    try:
        with console.status("starting tritonserver and comparing golden images"):
            server.start()
        if as_json:
            print(json.dumps(facts(server)), flush=True)
        else:
            console.print(welcome(server))
        watch(server, console)
    except KeyboardInterrupt:
        console.print("Stopping tritonserver")
    finally:
        server.stop()


def watch(server: TritonServer, console: Console) -> None:
    """Stay until interrupted; restart the server when it breaks, at most three times in ten minutes."""
    restarts: list[float] = []
    while True:
        time.sleep(CHECK_EVERY_S)
        problem = server.check(busy_is_fine=True)
        if problem is None:
            continue
        restarts = [one for one in restarts if time.monotonic() - one < 600] + [time.monotonic()]
        if len(restarts) > 3:
            raise ServerError(f"the server broke {len(restarts)} times in ten minutes: {problem}")
        console.print(
            f"[yellow]restarting:[/] {marked(problem.splitlines()[0])}",
            highlight=False,
            soft_wrap=True,
        )
        server.restart()
        console.print("[green]✓[/] serving again")


def facts(server: TritonServer) -> dict[str, Any]:
    return {
        "bundle": server.bundle.name,
        "url": server.url,
        "http": f"http://127.0.0.1:{server.ports['http']}",
        "metrics": f"http://127.0.0.1:{server.ports['metrics']}/metrics",
        "fingerprints": server.bundle.fingerprints,
        "dimensions": server.bundle.dimensions,
        "default_output": server.bundle.default_output,
        "promises": server.bundle.promises,
        "source": origin.told(server.bundle.folder),
        "notes": standing.notes(server.bundle),
        "log": str(server.log_file),
    }


def welcome(server: TritonServer) -> Panel:
    """Addresses, identity and a client to paste."""
    told = facts(server)
    spaces = "\n".join(
        f"  {output:<11} {told['dimensions'][output]:>5} dims   {fingerprint}"
        for output, fingerprint in told["fingerprints"].items()
    )
    text = (
        f"gRPC     {told['url']}\nhealth   {told['http']}/v2/health/ready\n"
        f"metrics  {told['metrics']}\nlog      {told['log']}\n\n"
        f"Fingerprints\n{spaces}\n\n"
        "Python\n"
        "  from pathlib import Path\n"
        "  from jepack.client import Client\n"
        f'  found = Client("{told["url"]}").embed([Path("photo.jpg")])\n'
        "  print(found.embedding.shape)\n\n"
        f"Shell\n  jepack embed photos/ --url {told['url']} --out photos.npz\n\n"
        "The golden images came back right. Ctrl-C stops."
    )
    title = f"{marked(server.bundle.name)} is served"
    return Panel(marked_lines(text), title=title, border_style="green", expand=False)


def embed(
    data: Annotated[
        str, typer.Argument(help="Folder of images (subfolders name the class), manifest, ...")
    ],
    out: Annotated[
        Path,
        typer.Option(help="File to write: .npz or .parquet.", callback=options.file_to_write),
    ],
    url: Annotated[
        str, typer.Option(help="gRPC address of the endpoint.", callback=options.address)
    ] = DEFAULT_URL,
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
    tell(console, notes)
    start = time.monotonic()
    with Client(url, timeout_s=timeout_s) as client, progress_bar(console, speed=True) as bar:
        task = bar.add_task("embedding", total=len(files), speed="")

        def show(done: int) -> None:
            bar.update(
                task, completed=done, speed=f"{done / (time.monotonic() - start):.1f} images/s"
            )

        found = client.embed(
            [file.path if file.part is None else file for file in files],
            batch_size=batch_size,
            concurrency=concurrency,
            on_progress=show,
            skip_bad=True,
        )
    seconds = time.monotonic() - start
    bad = {files[number].name: reason for number, reason in found.errors.items()}
    if len(bad) == len(files):
        raise DataError(f"{data}: none of {len(files)} images can be used.\n{listing(bad)}")
    write_bytes(out, WRITERS[out.suffix](source, files, found))
    summary = {
        "out": str(out),
        "images": len(files) - len(bad),
        "bad": bad,
        "seconds": round(seconds, 3),
        "images_per_s": round(len(files) / seconds, 2),
        "fingerprints": found.fingerprints,
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


def columns_of(source: Source, files: list[ImageFile], found: Embeddings) -> dict[str, Any]:
    """Rows of the good images: names (see Source), labels ("" for none) and the two outputs."""
    kept = [file for file, good in zip(files, found.good, strict=True) if good]
    return {
        "path": [file.name_below(source.base) for file in kept],
        "label": [file.label or "" for file in kept],
        "embedding": found.embedding[found.good],
        "projection": found.projection[found.good],
    }


def npz_bytes(source: Source, files: list[ImageFile], found: Embeddings) -> bytes:
    columns = columns_of(source, files, found)
    arrays: dict[str, Any] = {
        "path": np.array(columns["path"], dtype=np.str_),
        "label": np.array(columns["label"], dtype=np.str_),
        "embedding": columns["embedding"],
        "projection": columns["projection"],
    }
    for output, fingerprint in found.fingerprints.items():
        arrays[f"fingerprint_{output}"] = np.str_(fingerprint)
    arrays["default_output"] = np.str_(found.default_output)
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def parquet_bytes(source: Source, files: list[ImageFile], found: Embeddings) -> bytes:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise DependencyError(
            "writing .parquet needs pyarrow. Install it: pip install pyarrow, or write .npz"
        ) from error
    columns = columns_of(source, files, found)
    arrays = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
        if isinstance(values, np.ndarray)
        else pa.array(values, pa.string())
        for name, values in columns.items()
    }
    about = {f"fingerprint_{key}": value for key, value in found.fingerprints.items()}
    about["default_output"] = found.default_output
    stream = io.BytesIO()
    pq.write_table(pa.table(arrays).replace_schema_metadata(about), stream)
    return stream.getvalue()


WRITERS = {".npz": npz_bytes, ".parquet": parquet_bytes}
