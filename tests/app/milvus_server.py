"""Milvus for tests: a file of Milvus Lite, or the real server of the wheel `milvus`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def lite_or_server(kind: str, folder: Path) -> Iterator[str]:
    """An address without a collection."""
    assert kind == "lite"
    yield str(folder / "index.db")
