"""From an address to the way there."""

from __future__ import annotations

from pathlib import Path

from jepack.client.address import address_of, authority_for, key_for
from jepack.client.over_grpc import GrpcDoor
from jepack.client.over_http import HttpDoor
from jepack.client.wire import MODEL, Door


def door_to(
    url: str, key: str | None = None, ca_file: Path | str | None = None, model: str = MODEL
) -> Door:
    """Raises ConfigError, DependencyError, and ServerError in a child forked after gRPC was used."""
    address = address_of(url)
    key, authority = key_for(address, key), authority_for(address, ca_file)
    if address.kind == "grpc":
        return GrpcDoor(address, model)
    return HttpDoor(address, key, authority, model)
