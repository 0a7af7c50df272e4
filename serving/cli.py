"""`jepack serve`."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.panel import Panel

from jepack import bundle as bundles
from jepack.bundle import origin, standing
from jepack.errors import ServerError
from jepack.machine import shared_memory
from jepack.names import marked, marked_lines
from jepack.terminal import options
from serving.command import MOST_IMAGES, SERVICES
from serving.repository import RepositoryConfig, write_repository
from serving.server import TritonServer

CHECK_EVERY_S = 2.0


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
