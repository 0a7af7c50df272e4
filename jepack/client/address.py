"""Where an endpoint is: gRPC at host:port, or the gateway at an http(s) address; its key and authority."""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jepack.errors import ConfigError
from jepack.machine import LIMIT, is_loopback
from jepack.names import shown

DEFAULT_URL = "127.0.0.1:8001"
KEY, CA_FILE = "JEPACK_KEY", "JEPACK_CA_FILE"  # of the environment
# host:port, an IPv6 host in brackets, or either after the scheme of one of gRPC's own name resolvers.
GRPC = re.compile(
    r"(dns:(//[^/\s]*/)?|ipv4:|ipv6:)?(\[[\w:.%]+\]|[^\[\]:/@?#\s]+):(?P<port>-?[0-9]+)"
)
# Neither a name nor a password in it, which would end in logs.
HTTP = re.compile(
    r"(?P<root>https?://(\[[\w:.%]+\]|[^\[\]:/@?#\s]+)(:(?P<port>-?[0-9]+))?(/[^?#\s]*?)??)"
    r"(/v1(/embeddings)?)?/*",  # as clients of OpenAI write it
    re.IGNORECASE,
)
NEEDED = (
    "An address is host:port of gRPC, such as 127.0.0.1:8001 or [::1]:8001, or that of the gateway, such as "
    "http://127.0.0.1:8080 or https://photos.example"
)


@dataclass(frozen=True)
class Address:
    url: str  # as it was given
    kind: Literal["grpc", "http"]
    target: str  # what gRPC is given, or the gateway's root

    @property
    def here(self) -> bool:
        """Whether it is this machine's, which is asked past every proxy."""
        return is_loopback(self.target)

    @property
    def secure(self) -> bool:
        return self.target.lower().startswith("https://")


def address_of(url: str) -> Address:
    """Raise ConfigError for what is no address of an endpoint: gRPC would ask another port, or nobody.

    Of a port above 65,535 gRPC takes the rest, and of an address without one port 443.
    """
    text = url if isinstance(url, str) else ""
    target = text.removeprefix("grpc://")
    if re.fullmatch(r"unix:\S+", target):
        return Address(url, "grpc", target)
    if found := HTTP.fullmatch(text):
        check_port(url, found["port"] or "80")
        return Address(url, "http", found["root"].rstrip("/"))
    found = GRPC.fullmatch(target)
    if found is None:
        # Nothing after it is told again: it may hold a password.
        told = shown(re.sub(r"//[^/]*@", "//...@", text)) if text else shown(url)
        raise ConfigError(f"{told}: no address of an endpoint. {NEEDED}")
    check_port(url, found["port"])
    return Address(url, "grpc", target)


def check_address(url: str) -> None:
    """Raises ConfigError, see `address_of`."""
    address_of(url)


def check_port(url: str, port: str) -> None:
    if len(port) > 5 or not 0 < int(port) <= LIMIT:
        raise ConfigError(f"{url}: ports go from 1 to {LIMIT}. {NEEDED}")


def key_for(address: Address, key: str | None) -> str | None:
    """The key that is sent, as given or of the environment. Raises ConfigError, which does not tell it."""
    if key is not None and address.kind == "grpc":
        raise ConfigError(
            f"{address.url}: gRPC asks for no key. Leave it out, or name the gateway: http://host:port"
        )
    key = (key or os.environ.get(KEY)) if address.kind == "http" else None
    if key and not re.fullmatch(r"[!-~]+", key):
        raise ConfigError("a key is visible ASCII without spaces; this one holds something else")
    return key or None


def authority_for(address: Address, ca_file: Path | str | None) -> ssl.SSLContext | None:
    """What tells whether the gateway is who it says; None: those that httpx knows. Raises ConfigError."""
    if ca_file is not None and not address.secure:
        raise ConfigError(f"{address.url}: a CA file is for https://. Leave it out")
    file = (ca_file or os.environ.get(CA_FILE)) if address.secure else None
    if not file:
        return None
    try:
        return ssl.create_default_context(cafile=str(file))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"{shown(file)}: no certificates in PEM can be read from it ({error.strerror or error})"
        ) from error
