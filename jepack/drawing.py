"""A figure to its file. matplotlib's figures; nothing of it is imported here."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

from jepack.files import write_bytes

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".pdf", ".svg")


def save(figure: Any, path: Path, dpi: int) -> None:
    """Write it in the format of the file's ending, whole or not at all."""
    stream = BytesIO()
    figure.savefig(stream, format=path.suffix.lower().removeprefix("."), dpi=dpi)
    write_bytes(path, stream.getvalue())
