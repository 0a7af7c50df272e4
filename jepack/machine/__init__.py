"""The machine a command runs on: threads, loopback, shared memory, locks, TLS, and the process above it."""

from jepack.machine.locks import NoLocksError, alone, is_locked, only_one
from jepack.machine.loopback import HOST, LIMIT, is_loopback, without_proxies
from jepack.machine.tether import Tether
from jepack.machine.tls import certificate

__all__ = [
    "HOST",
    "LIMIT",
    "NoLocksError",
    "Tether",
    "alone",
    "certificate",
    "is_locked",
    "is_loopback",
    "only_one",
    "without_proxies",
]
