"""Filling a new collection, and giving it the name that people ask by when it is whole."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import datetime, timezone
from typing import Any

from app import scale
from app.milvus import STRONG, TEXT, MilvusStore
from app.milvus_address import Address
from app.milvus_opening import remember
from app.milvus_server import FACTS, SCALE, Server, connect
from app.store import IndexInfo
from jepack.errors import ArtifactError, JepackError


@contextmanager
def building(address: Address, info: IndexInfo) -> Iterator[MilvusStore]:
    """A new empty store to fill; it takes the place of `address` when the block ends well.

    Until then the index at `address` is as it was. An error removes what was written; what a killed build
    leaves is a collection NAME_8 HEX DIGITS without an alias.
    """
    server = connect(address)
    check_ours(server, address)
    info = replace(info, created=datetime.now(timezone.utc).isoformat(timespec="seconds"))
    name = f"{address.collection}_{secrets.token_hex(4)}"
    create(server, name, info)
    store = MilvusStore(address, server, info, name)
    try:
        yield store
        publish(store)
    except BaseException:
        with suppress(JepackError):
            server.call("drop_collection", name)
        raise


def check_ours(server: Server, address: Address) -> None:
    """Raises ArtifactError where the name belongs to something else."""
    found = server.described(address.collection)
    if found is not None and (FACTS not in found.properties or found.name == address.collection):
        raise ArtifactError(
            f"{address}: a collection that is no index of jepack, so it is left alone. Choose another "
            "#COLLECTION"
        )


def create(server: Server, name: str, info: IndexInfo) -> None:
    """An empty collection of this name, ready to be searched."""
    from pymilvus import CollectionSchema, DataType, FieldSchema, MilvusClient

    text: dict[str, Any] = {"dtype": DataType.VARCHAR, "max_length": TEXT}
    fields = [
        FieldSchema("key", DataType.VARCHAR, max_length=32, is_primary=True),
        FieldSchema("id", **text),
        FieldSchema("label", **text),
        FieldSchema("thumbnail", description="WebP, base64", **text),
        FieldSchema("stamp", **text),
        FieldSchema(
            "said", DataType.JSON, description="what the manifest's columns say, by their number"
        ),
        FieldSchema("vector", DataType.FLOAT_VECTOR, dim=info.dimension),
    ]
    index = MilvusClient.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="COSINE")
    server.call(
        "create_collection",
        name,
        schema=CollectionSchema(fields, description=f"jepack index {info.name}"),
        index_params=index,
        properties={FACTS: json.dumps(asdict(info))},
        consistency_level=STRONG,
    )


def publish(store: MilvusStore, measured: scale.Scale | None = None) -> None:
    """Move the alias to what was written, with its scale, measured where it is not known. The collection
    before it is removed."""
    server, address = store.server, store.address
    server.call("flush", store.collection)
    measured = measured or scale.measure(store)
    if (
        not address.lite
    ):  # it cannot change properties; its folder lies beside it and holds the scale
        told = {SCALE: scale.text_of(measured)}
        server.call("alter_collection_properties", store.collection, properties=told)
    before = server.described(address.collection)
    if before is None:
        server.call("create_alias", store.collection, address.collection)
    else:
        server.call("alter_alias", store.collection, address.collection)
        with suppress(JepackError):  # it takes room, and nothing else
            server.call("drop_collection", before.name)
    remember(address, replace(store.info, count=store.count()), measured)
