"""Which engine an index is in: LanceDB in a folder, or Milvus at an address (milvus_address.py).

`where` is a folder, an address, or the folder that stands for an address.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from app import lance, milvus_building, milvus_opening
from app.milvus_address import Address, address_of, refuse_mistyped
from app.milvus_server import connect
from app.store import METADATA, IndexInfo, VectorStore


def open_index(where: Path | str) -> VectorStore:
    """Open an index that `building` made.

    Raises ArtifactError when there is none or it is damaged, ServerError where its server does not answer,
    ConfigError for a mistyped address.
    """
    address = address_of(where)
    if address is None:
        refuse_mistyped(where)
        return lance.open_index(where)
    return milvus_opening.open_index(address)


def building(
    where: Path | str, info: IndexInfo, recall: float | None = None
) -> AbstractContextManager[VectorStore]:
    """A new empty store to fill; it takes the place of the index at `where` when the block ends well.

    `recall`: of approximate search in a folder at least, see `approximate.wanted`.
    """
    address = address_of(where)
    if address is None:
        return lance.building(where, info, recall)
    return milvus_building.building(address, info)


def there(where: Path | str) -> bool:
    """Whether an index is at `where`. Raises ServerError where its server does not answer."""
    address = address_of(where)
    return (Path(where) / METADATA).is_file() if address is None else stamp_of(where) is not None


def folder_of(where: Path | str) -> Path:
    """The folder of an index, or the one that stands for it once it was opened or built."""
    address = address_of(where)
    return Path(where) if address is None else address.folder


def located(where: Path | str) -> Path:
    """As `folder_of`; of an index on a server it then holds what that says today. Raises as `open_index`."""
    return open_index(where).folder if address_of(where) else Path(where)


def stamp_of(where: Path | str) -> object | None:
    """Another value when the index was built anew; None where there is none."""
    address = address_of(where)
    if address is not None:
        return of_server(address)
    try:
        found = os.stat(Path(where) / METADATA)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def of_server(address: Address) -> object | None:
    if address.lite and not Path(address.uri).exists():  # opening would make it
        return None
    found = connect(address).described(address.collection)
    return None if found is None else (found.name, found.number)


__all__ = ["address_of", "building", "folder_of", "located", "open_index", "stamp_of", "there"]
