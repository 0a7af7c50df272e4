"""What Triton's gRPC failures mean to a user; shared by every client of the endpoint."""

from __future__ import annotations

import os
import re
from typing import Any

from jepack.errors import ConfigError, DataError, ServerError
from jepack.machine import LIMIT, is_loopback, shared_memory
from jepack.names import shown

CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_reconnect_backoff_ms", 1000),  # the default, two minutes, outlasts a restart
]


def channel(url: str) -> list[tuple[str, int]]:
    """Options of a gRPC channel to `url`; one on this machine goes through no proxy."""
    return [*CHANNEL, ("grpc.enable_http_proxy", 0)] if is_loopback(url) else CHANNEL


# host:port, an IPv6 host in brackets, or either after the scheme of one of gRPC's own name resolvers.
ADDRESS = re.compile(
    r"(dns:(//[^/\s]*/)?|ipv4:|ipv6:)?(\[[\w:.%]+\]|[^\[\]:/@?#\s]+):(?P<port>-?[0-9]+)"
)
NEEDED = "An address is host:port, such as 127.0.0.1:8001 or [::1]:8001"


def check_address(url: str) -> None:
    """Raise ConfigError for what is no address of an endpoint: gRPC would ask another port, or nobody.

    Of a port above 65,535 it takes the rest, and of an address without one port 443.
    """
    if isinstance(url, str) and re.fullmatch(r"unix:\S+", url):
        return
    found = ADDRESS.fullmatch(url) if isinstance(url, str) else None
    if found is None:
        scheme = re.match(r"\w+://", url) if isinstance(url, str) else None
        mend = f"Leave {scheme.group()} out: it is asked over gRPC. " if scheme else ""
        raise ConfigError(f"{shown(url)}: no address of an endpoint. {mend}{NEEDED}")
    port = found["port"]
    if len(port) > 5 or not 0 < int(port) <= LIMIT:
        raise ConfigError(f"{url}: ports go from 1 to {LIMIT}. {NEEDED}")


class Home:
    """The process that gRPC first ran in: its threads are not in a forked child, which would wait forever."""

    def __init__(self) -> None:
        self.process: int | None = None

    def check(self) -> None:
        """Called before gRPC is used. Raises ServerError in a child forked after that."""
        here = os.getpid()
        if self.process is None:
            self.process = here
        if self.process != here:
            raise ServerError(
                "this process was forked from one that uses the client, and gRPC does not survive a fork. "
                'Start it another way: multiprocessing.get_context("spawn"), DataLoader('
                'multiprocessing_context="spawn"), or make the first client after the fork'
            )


class BusyError(ServerError):
    """The server lives but did not keep up: its queue stayed full, or the deadline passed."""


class RequestError(ServerError):
    """The server lives and failed on this request; others may pass."""


class ImageError(DataError):
    """The server refused an image; `number` is its place in the request."""

    def __init__(self, reason: str, number: int = 0) -> None:
        super().__init__(reason)
        self.number = number


def queue_is_full(error: Any) -> bool:
    """Whether Triton refused a request because too many wait; asking again may help."""
    return "maximum queue size" in str(error).lower()


def translate(error: Any, url: str, limit_s: float) -> DataError | ServerError:
    """A Triton exception as an error of ours: what happened at `url`, and what to do."""
    status = str(error.status() or "").removeprefix("StatusCode.")
    text = re.sub(r"^in ensemble '\w+', ", "", str(error.message() or error)).strip()
    if status == "INVALID_ARGUMENT" and (refused := re.match(r"image( \d+)?: ", text)):
        return ImageError(text[refused.end() :], int(refused[1] or 0))
    if queue_is_full(error):
        return BusyError(
            f"{url}: overloaded, its queue stayed full for {limit_s:g} s. "
            "Send less at once, or add servers."
        )
    if "timeout expired" in text.lower():
        return BusyError(f"{url}: not begun within {limit_s:g} s, so the server dropped it")
    if "shared memory pool" in text:
        return ServerError(
            f"{url}: the server's shared memory is full. Send smaller requests (--batch-size 4), or "
            f"give it more where it runs. {shared_memory.MEND}"
        )
    if "has no available versions" in text:
        return ServerError(f"{url}: the server is starting or stopping, ask again")
    if status == "UNAVAILABLE" and "restricted" not in text:
        return ServerError(
            f"{url}: nothing answers there ({cause(text)}). "
            "Start it: jepack serve BUNDLE, or name another address with --url"
        )
    if status == "DEADLINE_EXCEEDED":
        return BusyError(
            f"{url}: no answer within {limit_s:g} s. Is the server busy? Allow more: timeout_s"
        )
    if status == "NOT_FOUND" or "unknown model" in text:
        return ServerError(
            f"{url}: this server has no model 'embed', so it does not serve a jepack bundle "
            f"({last_line(text)})"
        )
    return RequestError(f"{url}: the server failed ({status.lower()}: {last_line(text)})")


def cause(text: str) -> str:
    """What the system said of a connection, without gRPC's chain of reports before it."""
    return last_line(text).rpartition(": ")[2].partition(" (")[0].lower()


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no reason given"
