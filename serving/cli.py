"""`jepack serve`."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jepack.errors import ServerError
from jepack.machine import shared_memory
from jepack.measures.drift import MOST
from jepack.names import marked, marked_lines, tell
from jepack.terminal import idle, options
from serving import combinations
from serving.command import MOST_IMAGES, SERVICES
from serving.repository import RepositoryConfig, write_repository
from serving.served import served_of
from serving.server import TritonServer
from serving.welcome import facts, identity, notes_of, welcome

CHECK_EVERY_S = 2.0


def serve(
    bundles: Annotated[
        list[str],
        typer.Argument(
            help="Bundle with an ONNX export; or several as NAME=BUNDLE, a name again for its next version.",
            metavar="BUNDLE|NAME=BUNDLE...",
        ),
    ],
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
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads that decode and encode; one a core unless told.",
            min=1,
            max=1024,
        ),
    ] = None,
    decoders: Annotated[
        int,
        typer.Option(
            help="Production config: processes that decode images, a thread each.",
            min=1,
            max=256,
        ),
    ] = RepositoryConfig.decoders,
    canary: Annotated[
        str,
        typer.Option(
            help="Share of callers for a name's newest version, 0 to 1; or a file that holds it and is "
            "read again when it changes."
        ),
    ] = "",
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
    wait_s: Annotated[
        float,
        typer.Option(
            help="How long the Triton of --engine host:port may take to answer.",
            callback=options.within(options.Limit(0, 1e6)),
        ),
    ] = 0.0,
    http_log: Annotated[
        str | None,
        typer.Option(
            help="Where the gateway's log goes; - for standard output.",
            callback=lambda value: value if value == "-" else options.file_to_write(value),
        ),
    ] = None,
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
    probes: Annotated[
        list[str] | None,
        typer.Option(
            "--probe", help="Kept in a bundle: the gateway answers with its probabilities too."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON once ready.")] = False,
) -> None:
    """Serve bundles on NVIDIA Triton, and over HTTP to the clients people have, until Ctrl-C.

    Ready means that the bundle's golden images came back right. A server that breaks is restarted.

    Example: jepack serve runs/quickstart/bundle
    Two versions: jepack serve photos=june photos=july --canary 0.1
    A probe too: jepack serve runs/photos/bundle --probe cracks
    """
    combinations.check(idle.changed(serve, locals()), engine)
    console = Console(stderr=as_json)
    served = served_of(bundles)
    notes = notes_of(served)  # told once it serves: before an error nobody wants to read them
    config = RepositoryConfig(
        max_batch_size=max_batch_size,
        threads=threads or 0,
        decoders=decoders,
        tensorrt=tensorrt,
    )
    if repository_only is not None:
        write_repository(served, repository_only, config)
        tell(console, notes)
        if as_json:
            print(json.dumps({"repository": str(repository_only), **identity(served)}))
        else:
            console.print(f"[green]✓[/] model repository in {marked(repository_only)}")
        return
    door = None
    if not no_http:
        from serving.gateway import Shares
        from serving.gateway.command import Door, Watching, check_engine, check_shares, engines_of
        from serving.gateway.probing import kept_in

        check_engine(engine)
        door, shares = Door.of(http, key_file, tls_cert, tls_key), Shares.told(canary)
        check_shares(shares, served)
        opened = [one.bundle for one in served]
        watching = Watching.of(opened, images_per_false_alarm, no_watch)
        notes += watching.notes(opened)
        heads = kept_in(opened, probes or ())
    server = None
    if engine == "triton":
        server = TritonServer(
            served,
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
                    engines = engines_of(
                        engine,
                        served,
                        server.url if server is not None else None,
                        stack,
                        max_batch_size=max_batch_size,
                        threads=threads,
                        wait_s=wait_s,
                    )
                    watches = [watching.by(one) for one in engines]
                    gateway = door.open(
                        engines,
                        stack,
                        shares=shares,
                        watches=watches,
                        probes=heads,
                        log=http_log,
                    )
            url = gateway.url if door is not None else None
            kept = heads if door is not None else []
            tell(console, notes)
            if as_json:
                print(json.dumps(facts(served, server, url, kept)), flush=True)
            else:
                keys = door is not None and door.keys is not None
                welcome(console, served, server, url, keys=keys, probes=kept)
            watch(server, console, gateway.running if door is not None else lambda: True)
    except KeyboardInterrupt:
        console.print("Stopped")


def watch(server: TritonServer | None, console: Console, door_is_open: Callable[[], bool]) -> None:
    """Stay until interrupted; restart Triton when it breaks, at most three times in ten minutes."""
    restarts: list[float] = []
    while True:
        if server is None:
            time.sleep(CHECK_EVERY_S)
        else:
            server.lives_for(CHECK_EVERY_S)  # one that died is not waited for
        if not door_is_open():
            raise ServerError("the HTTP gateway ended by itself; its log tells why")
        problem = server.check(busy_is_fine=True) if server is not None else None
        if server is None or problem is None:
            continue
        restarts = [one for one in restarts if time.monotonic() - one < 600] + [time.monotonic()]
        if len(restarts) > 3:
            raise ServerError(
                f"the server broke {len(restarts)} times in ten minutes, so it is not started again: "
                f"{problem}\nIts logs are {marked(server.log_file)} and those beside it, .1 to .3"
            )
        console.print(
            f"[yellow]restarting:[/] {marked(problem.splitlines()[0])}",
            highlight=False,
            soft_wrap=True,
        )
        log = server.restart()
        console.print(
            f"[green]✓[/] serving again; the log of the one before: {marked(log)}",
            highlight=False,
            soft_wrap=True,
        )
