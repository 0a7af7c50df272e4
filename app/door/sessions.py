"""Who is logged in, and who tried too often. In memory: a restart ends all sessions."""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

IDLE_S = 12 * 3600.0  # an open page asks every few seconds, so it stays
LONGEST_S = 7 * 24 * 3600.0
MOST = 10_000  # sessions, and addresses, that are remembered
FREE = 4  # wrong passwords of an address without a wait
LONGEST_WAIT_S = 900.0
FORGOTTEN_S = 3600.0  # since an address tried last

Clock = Callable[[], float]


@dataclass
class Session:
    user: str
    since: float
    seen: float


class Sessions:
    """Tokens that only their browsers know: what is kept here is a digest of each."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._open: dict[bytes, Session] = {}  # that was seen longest ago first

    def open(self, user: str) -> str:
        """A new token."""
        token, now = secrets.token_urlsafe(32), self._clock()
        with self._lock:
            while len(self._open) >= MOST:
                del self._open[next(iter(self._open))]
            self._open[digest(token)] = Session(user, now, now)
        return token

    def user(self, token: str) -> str | None:
        """Whose it is; its idle time begins again."""
        key, now = digest(token), self._clock()
        with self._lock:
            found = self._open.pop(key, None)
            if found is None or now - found.seen > IDLE_S or now - found.since > LONGEST_S:
                return None
            found.seen = now
            self._open[key] = found
        return found.user

    def close(self, token: str) -> None:
        with self._lock:
            self._open.pop(digest(token), None)


def digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


@dataclass
class Tried:
    last: float  # when one began
    wrong: Counter[str] = field(default_factory=Counter)  # by user


class Attempts:
    """Wrong passwords by address: the fifth must wait a second, each further one twice as long.

    One begins before its password is looked at, so that many at once are many. A right one takes back those
    for the same user alone: who has an account cannot guess another's in between.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tried: dict[str, Tried] = {}  # that tried longest ago first

    def begin(self, address: str, user: str) -> float:
        """Seconds to wait; 0.0: it may be looked at, and counts as wrong until `right`."""
        key, now = network(address), self._clock()
        with self._lock:
            found = self._tried.pop(key, None)
            if found is None or now - found.last > FORGOTTEN_S:
                found = Tried(now)
            wait = found.last + wait_s(sum(found.wrong.values())) - now
            if wait <= 0:
                found.wrong[user[:64]] += 1
                found.last = now
            while len(self._tried) >= MOST:
                del self._tried[next(iter(self._tried))]
            self._tried[key] = found
        return max(wait, 0.0)

    def right(self, address: str, user: str) -> None:
        with self._lock:
            found = self._tried.get(network(address))
            if found is not None:
                found.wrong.pop(user[:64], None)


def wait_s(wrong: int) -> float:
    """After so many wrong ones."""
    return 0.0 if wrong < FREE else float(min(2.0 ** (wrong - FREE), LONGEST_WAIT_S))


def network(address: str) -> str:
    """One caller: an IPv4 address, or the /64 of which an IPv6 host has all."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))
