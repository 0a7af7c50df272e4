"""This machine talking to itself: never through a proxy, and on ports that no other client draws."""

from __future__ import annotations

import ipaddress
import os
import random
import socket
import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jepack.errors import ConfigError

HOST = "127.0.0.1"
NAMES = ("127.0.0.1", "localhost", "::1")
LIMIT = 65_535
# Ports that a system draws from for the near end of a connection, where it does not tell its own.
DRAWN = (32_768, LIMIT)
DRAWN_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST = 10_000  # below lie the ports that services are known by


def is_loopback(address: str) -> bool:
    """Whether `host`, `host:port`, `[::1]:port`, or an address with a scheme names this machine itself."""
    scheme, colon, rest = address.partition(":")
    if colon and scheme in ("dns", "ipv4", "ipv6") and not rest.isdigit():  # gRPC's own
        address = rest.removeprefix("///")
    try:
        host = urlsplit(address if "//" in address else f"//{address}").hostname or ""
    except ValueError:
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def proxy_variables() -> list[str]:
    """Names of the environment variables that send requests through a proxy."""
    return sorted(
        name
        for name, value in os.environ.items()
        if value and name.lower().endswith("_proxy") and name.lower() != "no_proxy"
        if name.lower() != "no_grpc_proxy"
    )


def spare() -> None:
    """Exempt this machine from the proxies of the environment, for this process and its children.

    For commands, which own their process. Libraries differ in which spelling they read.
    """
    if not proxy_variables():
        return
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        known = os.environ.get(name) or os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
        kept = [entry.strip() for entry in (known or "").split(",") if entry.strip()]
        os.environ[name] = ",".join([*kept, *(one for one in NAMES if one not in kept)])


@contextmanager
def without_proxies() -> Iterator[None]:
    """No proxy variable in the environment until the block ends.

    For a library that asks a server on this machine and chooses its way there itself. Exempting the
    address is not enough: httpx refuses to be made where a SOCKS proxy is named that it cannot speak to.
    """
    taken = {name: os.environ.pop(name) for name in proxy_variables()}
    try:
        yield
    finally:
        os.environ.update(taken)


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is told as the error it is."""

    def redirect_request(self, *told: Any) -> None:
        return None


def open_url(
    url: str, timeout_s: float, headers: dict[str, str] | None = None, ca_file: str | None = None
) -> Any:
    """urllib's answer to `url`, a context manager; asked without a proxy on this machine.

    With `headers` no redirect is followed: a key in them is for this address alone. `ca_file` (PEM) is
    who is trusted instead of the system's authorities. Raises OSError.
    """
    handlers: list[Any] = [urllib.request.ProxyHandler({})] if is_loopback(url) else []
    handlers += [NoRedirect()] if headers else []
    if ca_file:
        context = ssl.create_default_context(cafile=ca_file)
        handlers.append(urllib.request.HTTPSHandler(context=context))
    request = urllib.request.Request(url, headers=headers or {})
    return urllib.request.build_opener(*handlers).open(request, timeout=timeout_s)


def check_port(port: int, option: str) -> int:
    """`port`, or ConfigError when no port has that number; 0 stands for any free one."""
    if not 0 <= port <= LIMIT:
        raise ConfigError(
            f"{option} must be between 1 and {LIMIT}, found {port}; 0 picks a free port."
        )
    return port


def hold(port: int, host: str = HOST) -> socket.socket:
    """A socket bound to `port` of this machine, so that nobody else gets it while it is open.

    0 takes a free port that the system does not draw for the near end of other connections: one of those
    can be taken by any client the moment it is let go. `host`: an address or a name of this machine.
    Raises OSError when `port` cannot be had.
    """
    family, _, _, _, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    for candidate in [port] if port else [*candidates(), 0]:  # 0: where all of them may be drawn
        holder = tcp(family)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(candidate > 0))
        try:
            holder.bind((address[0], candidate))
        except OSError:
            holder.close()
            if candidate == port:
                raise
        else:
            return holder
    raise AssertionError


def tcp(family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    """A socket that names its protocol: only on such does asyncio turn Nagle's wait off, which costs 40 ms an
    answer where the head is written before the body."""
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)


def candidates(count: int = 100) -> list[int]:
    """Some ports outside the drawn range, in no order, so that two commands seldom meet."""
    low, high = drawn_range()
    free = [*range(LOWEST, low), *range(max(high + 1, LOWEST), LIMIT + 1)]
    return random.SystemRandom().sample(free, min(count, len(free)))


def drawn_range() -> tuple[int, int]:
    """First and last of the ports that the system draws for clients."""
    try:
        low, high = map(int, DRAWN_FILE.read_text().split())
    except (OSError, ValueError):
        return DRAWN
    return low, high
