"""Opening an index in Milvus, and what of it is kept on this machine."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from app import scale
from app.milvus import MilvusStore
from app.milvus_address import Address, of_pointer, write_pointer
from app.milvus_server import FACTS, SCALE, Server, connect
from app.store import IndexInfo, info_of, read_info, write_info
from jepack.errors import ArtifactError, JepackError

NAMED = 5  # other collections, where one is missing


def open_index(address: Address) -> MilvusStore:
    """Raises ArtifactError where there is no index, ServerError where nobody answers or refuses the token."""
    make = f"Make it: jepack index DATA --to {address}"
    if address.lite and not Path(address.uri).exists():  # opening would make it
        raise ArtifactError(f"{address}: no index here ({address.uri} is missing). {make}")
    server = connect(address)
    found = server.described(address.collection)
    if found is None:
        raise ArtifactError(f"{address}: no index here{others(server, address)}. {make}")
    facts = found.properties.get(FACTS)
    if facts is None:
        raise ArtifactError(
            f"{address}: a collection, but no index of jepack. {make.replace('it', 'one', 1)}"
        )
    try:
        value = json.loads(facts)
    except ValueError as error:
        raise ArtifactError(f"{address}: {FACTS} cannot be read ({error}). {make}") from error
    info = info_of(value, f"{address}: {FACTS}", make)
    server.call("load_collection", found.name)  # a file's are released when it is opened
    store = MilvusStore(address, server, info, found.name)
    store.info = replace(info, count=store.count())
    remember(address, store.info, scale.from_text(found.properties.get(SCALE)))
    if (
        address.lite and scale.read(store.folder, store.info.count) is None
    ):  # it came without its folder
        scale.write(store.folder, scale.measure(store))
    return store


def others(server: Server, address: Address) -> str:
    """The indexes that are there, for who named another."""
    names = [name for name in server.names() if name != address.collection]
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f" (there are: {', '.join(names[:NAMED])}{more})" if names else ""


def remember(address: Address, info: IndexInfo, measured: scale.Scale | None) -> None:
    """Keep on this machine what is said of the index, where that is news."""
    folder = address.folder
    with suppress(JepackError):
        was = read_info(folder)
        same = (was.created, was.fingerprint) == (info.created, info.fingerprint)
        if same and of_pointer(folder) == address:
            return
    write_pointer(address)
    (folder / scale.FILE).unlink(missing_ok=True)
    scale.write(folder, measured)
    write_info(folder, info)
