"""How every command of this stage is told who embeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jepack.client import DEFAULT_URL
from jepack.terminal import options

UrlOption = Annotated[
    str | None,
    typer.Option(
        help=f"{options.ENDPOINT} Default: the index's own bundle if it is there, else {DEFAULT_URL}.",
        callback=options.address,
    ),
]
BundleOption = Annotated[
    Path | None, typer.Option(help="Embed with this bundle here; no endpoint needed.")
]
