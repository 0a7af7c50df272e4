"""A figure to its file. matplotlib's figures; nothing of it is imported here."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

from jepack.errors import ConfigError
from jepack.files import write_bytes

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".pdf", ".svg")


def save(figure: Any, path: Path, dpi: int) -> None:
    """Write it as the kind of picture that the name ends in, PNG without an ending.

    Whole or not at all: on a full disk a picture that was there stays. ConfigError for an unknown ending.
    """
    kind = path.suffix.lower().removeprefix(".") or "png"
    known = figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise ConfigError(f"{path}: pictures end in {', '.join(sorted(known))}; found .{kind}")
    stream = BytesIO()
    figure.savefig(stream, format=kind, dpi=dpi)
    write_bytes(path, stream.getvalue())
