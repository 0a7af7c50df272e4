"""`jepack app`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from app.door import Door, make_hash
from app.encoders import BundleOption, UrlOption


def app(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="BUNDLE|INDEX",
            help="Index folder or address of Milvus, or a bundle with --data; several are compared.",
        ),
    ],
    data: Annotated[
        str | None, typer.Option(help="Images to look at with a bundle; indexed beside it.")
    ] = None,
    url: UrlOption = None,
    bundle: BundleOption = None,
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)
    ] = 7860,
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on, 127.0.0.1 unless told; others need --auth."),
    ] = None,
    auth: Annotated[
        str | None,
        typer.Option(
            metavar="USER:HASH|FILE",
            help="Who may log in; a file holds one a line, see --make-hash.",
        ),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate of the page, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    public_url: Annotated[
        str | None, typer.Option(help="How people reach the page through a proxy, https://...")
    ] = None,
    make: Annotated[
        str | None,
        typer.Option(
            "--make-hash",
            metavar="USER",
            help="Ask for a password, print USER:HASH, and stop.",
            callback=make_hash,
            is_eager=True,
        ),
    ] = None,
    browser: Annotated[bool, typer.Option("--open", help="Open it in your browser.")] = False,
) -> None:
    """Open the page over an index, or over a bundle and a folder: click or upload an image.

    A bundle embeds uploads in this process; several bundles or indexes of the same images get a tab that
    compares them. Only this machine can reach the page (127.0.0.1); from another:
    ssh -L 7860:127.0.0.1:7860 HOST, or --host and --auth.

    Example: jepack app runs/photos/bundle --data photos/
    """
    from app.engines import located
    from app.opening import open_paths
    from app.page import open_page

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that its folder goes, too
    console = Console(stderr=True)
    door = Door.of(host, auth, tls_cert, tls_key, public_url)
    for warning in door.warnings():
        console.print(f"[yellow]![/] {warning}", highlight=False, soft_wrap=True)
    desk = open_paths([located(path) for path in paths], data, url, bundle, console)
    with console.status("Starting the page"):
        page = open_page(desk, port, door)
    print(f"{door.told(page.url)}  (Ctrl-C stops it)", flush=True)
    if browser:
        typer.launch(page.url)
    try:
        page.wait()
    finally:
        page.close()
