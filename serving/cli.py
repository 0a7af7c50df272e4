"""`jepack serve`."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.panel import Panel

from jepack import bundle as bundles
from jepack.bundle import Bundle, origin, standing
from jepack.errors import ConfigError, ServerError
from jepack.machine import shared_memory
from jepack.measures.drift import MOST
from jepack.names import marked, marked_lines, tell
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
    http: Annotated[
        str | None,
        typer.Option(help="host:port of the HTTP gateway; 127.0.0.1:8080 unless told."),
    ] = None,
    no_http: Annotated[bool, typer.Option("--no-http", help="No gateway, gRPC alone.")] = False,
    key_file: Annotated[
        Path | None,
        typer.Option(help="Keys of the gateway's callers, one a line; or JEPACK_KEYS."),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="triton, embedded (ONNX Runtime in this process), or a Triton's host:port."
        ),
    ] = "triton",
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate of the gateway, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    images_per_false_alarm: Annotated[
        float | None,
        typer.Option(
            help="Ordinary images to one false alarm of the gateway's watching; 1,000,000 unless told.",
            callback=options.within(options.Limit(1, MOST)),
        ),
    ] = None,
    no_watch: Annotated[
        bool, typer.Option("--no-watch", help="Do not watch the images for drift.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON once ready.")] = False,
) -> None:
    """Serve a bundle on NVIDIA Triton, and over HTTP to the clients people have, until Ctrl-C.

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
    door = None
    if not no_http:
        from serving.gateway.command import Door, Watching, check_engine, engine_of

        check_engine(engine)
        door = Door.of(http, key_file, tls_cert, tls_key)
        watching = Watching.of([opened], images_per_false_alarm, no_watch)
        tell(console, watching.notes([opened]))
    elif engine != "triton" or http is not None:
        raise ConfigError("--no-http leaves nothing for --http and --engine to serve")
    elif no_watch or images_per_false_alarm is not None:
        raise ConfigError("--no-http leaves nothing for --images-per-false-alarm and --no-watch")
    server = None
    if engine == "triton":
        server = TritonServer(
            opened,
            http_port=http_port,
            grpc_port=port,
            metrics_port=metrics_port,
            config=config,
            log_file=log_file,
        )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both end as KeyboardInterrupt
    if server is not None and (problem := shared_memory.tight()):
        console.print(
            f"[yellow]warning:[/] {marked_lines(problem)}", highlight=False, soft_wrap=True
        )
    try:
        with ExitStack() as stack:  # ends in the order that answers what is in flight
            with console.status("starting and comparing golden images"):
                if server is not None:
                    stack.callback(server.stop)
                    server.start()
                if door is not None:
                    asked = engine_of(
                        engine,
                        opened,
                        server.url if server is not None else None,
                        max_batch_size=max_batch_size,
                        threads=threads,
                    )
                    stack.callback(asked.close)
                    gateway = door.open(asked, stack, watches=[watching.by(asked)])
            url = gateway.url if door is not None else None
            if as_json:
                print(json.dumps(facts(opened, server, url)), flush=True)
            else:
                console.print(welcome(opened, server, url))
            watch(server, console, gateway.running if door is not None else lambda: True)
    except KeyboardInterrupt:
        console.print("Stopped")


def watch(server: TritonServer | None, console: Console, door_is_open: Callable[[], bool]) -> None:
    """Stay until interrupted; restart Triton when it breaks, at most three times in ten minutes."""
    restarts: list[float] = []
    while True:
        time.sleep(CHECK_EVERY_S)
        if not door_is_open():
            raise ServerError("the HTTP gateway ended by itself; its log tells why")
        problem = server.check(busy_is_fine=True) if server is not None else None
        if server is None or problem is None:
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


def facts(bundle: Bundle, server: TritonServer | None, gateway: str | None) -> dict[str, Any]:
    """What a program may want to know: `url` and what follows it are Triton's, `gateway` is for HTTP."""
    found: dict[str, Any] = {"bundle": bundle.name}
    if server is not None:
        found |= {
            "url": server.url,
            "http": f"http://127.0.0.1:{server.ports['http']}",
            "metrics": f"http://127.0.0.1:{server.ports['metrics']}/metrics",
            "log": str(server.log_file),
        }
    return found | {
        "gateway": gateway,
        "fingerprints": bundle.fingerprints,
        "dimensions": bundle.dimensions,
        "default_output": bundle.default_output,
        "promises": bundle.promises,
        "source": origin.told(bundle.folder),
        "notes": standing.notes(bundle),
    }


def welcome(bundle: Bundle, server: TritonServer | None, gateway: str | None) -> Panel:
    """Addresses, identity and a client to paste."""
    told = facts(bundle, server, gateway)
    spaces = "\n".join(
        f"  {output:<11} {told['dimensions'][output]:>5} dims   {fingerprint}"
        for output, fingerprint in told["fingerprints"].items()
    )
    parts = []
    if gateway is not None:
        parts.append(
            f"HTTP     {gateway}/v1/embeddings\nready    {gateway}/health/ready\n"
            f"drift    {gateway}/v1/drift"
        )
    if server is not None:
        parts.append(
            f"gRPC     {told['url']}\nhealth   {told['http']}/v2/health/ready\n"
            f"metrics  {told['metrics']}\nlog      {told['log']}"
        )
    parts.append(f"Fingerprints\n{spaces}")
    asked = told["url"] if server is not None else gateway
    parts.append(
        "Python\n"
        "  from jepack.client import Client\n"
        f'  found = Client("{asked}").embed("photo.jpg")\n'
        "  print(found.embedding.shape)"
    )
    shell = [f"  jepack embed photos/ --url {asked} --out photos.npz"]
    if gateway is not None:
        shell.append(f"  curl {gateway}/v1/embeddings -F file=@photo.jpg")
    parts.append("\n".join(["Shell", *shell]))
    text = "\n\n".join([*parts, "The golden images came back right. Ctrl-C stops."])
    title = f"{marked(bundle.name)} is served"
    return Panel(marked_lines(text), title=title, border_style="green", expand=False)
