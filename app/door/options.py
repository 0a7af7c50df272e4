"""What `jepack app` is told of where to listen and who may ask, checked before any work."""

from __future__ import annotations

import getpass
import ipaddress
import re
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import typer

from app.door.accounts import SHORTEST, USER, Accounts, Hash
from jepack.errors import ConfigError
from jepack.machine import HOST, certificate, is_loopback

NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
EVERY = ("0.0.0.0", "::")  # addresses for all that this machine has


@dataclass(frozen=True, kw_only=True)
class Door:
    """Where the page listens and who may ask; as it stands: this machine alone, anybody on it."""

    host: str = HOST
    accounts: Accounts | None = None
    certificate: tuple[Path, Path] | None = None  # and its private key
    public_url: str | None = None  # without a slash at its end

    @classmethod
    def of(
        cls,
        host: str | None = None,
        auth: str | None = None,
        tls_cert: Path | str | None = None,
        tls_key: Path | str | None = None,
        public_url: str | None = None,
    ) -> Door:
        """From the options as they were given. Raises ConfigError."""
        if auth is not None and host is None:
            raise ConfigError(
                "--auth goes with --host, which says where the page is reached: --host 0.0.0.0 for every "
                f"network of this machine, --host {HOST} for this machine or a proxy on it"
            )
        if public_url is not None and auth is None:
            raise ConfigError(
                "--public-url says that others reach the page, so it needs --auth USER:HASH or FILE"
            )
        found = HOST if host is None else checked(host)
        if auth is None and not is_loopback(bracketed(found)):
            raise ConfigError(
                f"--host {host} lets other machines ask, so it needs accounts: --auth USER:HASH or FILE. "
                "Make one: jepack app --make-hash USER"
            )
        return cls(
            host=found,
            accounts=None if auth is None else Accounts.chosen(auth),
            certificate=certificate(path(tls_cert), path(tls_key)),
            public_url=None if public_url is None else checked_url(public_url),
        )

    @property
    def secure(self) -> bool:
        """Whether browsers reach it by TLS, ours or a proxy's."""
        return self.certificate is not None or (self.public_url or "").startswith("https:")

    @property
    def names(self) -> frozenset[str]:
        """Hosts that a request may name, beside addresses where `any_address`."""
        names = {HOST, "localhost", "::1", self.host}
        if self.any_address:
            names.add(socket.gethostname())
        if self.public_url is not None:
            names.add(urlsplit(self.public_url).hostname or "")
        return frozenset(name.lower() for name in names)

    @property
    def any_address(self) -> bool:
        """Whether any address of ours may be named: a page elsewhere can give us a name, but no address."""
        return self.host in EVERY

    def warnings(self) -> list[str]:
        """What a user must know before others come."""
        if self.accounts is None or self.secure or is_loopback(bracketed(self.host)):
            return []
        return [
            "without TLS, passwords and images can be read on their way: give --tls-cert and --tls-key, or "
            "put a proxy with TLS before the page (--public-url)"
        ]

    def told(self, url: str) -> str:
        """`url` of the page, as those who may ask reach it."""
        if self.public_url is not None:
            return self.public_url
        if not self.any_address:
            return url
        parts = urlsplit(url)
        return f"{parts.scheme}://{socket.gethostname()}:{parts.port}"


def path(given: Path | str | None) -> Path | None:
    return None if given is None else Path(given)


def bracketed(host: str) -> str:
    """As it stands in an address."""
    return f"[{host}]" if ":" in host else host


def checked(host: str) -> str:
    """An address or a name, or ConfigError."""
    bare = host.removeprefix("[").removesuffix("]")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        if not NAME.fullmatch(bare):
            raise ConfigError(
                f"--host takes an address or a name of this machine, such as 0.0.0.0, found {host!r:.100}; "
                "the port goes to --port"
            ) from None
    return bare


def checked_url(url: str) -> str:
    """http(s)://host[:port][/path] without a slash at its end, or ConfigError."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        sound = sound and not (parts.query or parts.fragment or "@" in parts.netloc)
    except ValueError:
        sound = False
    if not sound or not url.isprintable() or " " in url:
        raise ConfigError(
            "--public-url takes the address by which people reach the page, such as "
            "https://photos.example/jepack: no user, no ? and no #"
        )
    return url.rstrip("/")


def make_hash(user: str | None) -> None:
    """For typer's `callback`: a password is asked for, the account printed, and the command ends."""
    if user is None:
        return
    if not USER.fullmatch(user):
        raise typer.BadParameter("a user is up to 64 letters, digits and .@+-_")
    print(f"{user}:{Hash.of(new_password())}")
    raise typer.Exit


def new_password() -> str:
    """From the terminal, twice and unseen; else a line of standard input. Raises ConfigError."""
    if not sys.stdin.isatty():
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = getpass.getpass("Password: ")
        if getpass.getpass("Again: ") != password:
            raise ConfigError("the two passwords differ. Type it again")
    if len(password) < SHORTEST:
        raise ConfigError(
            f"the password has {len(password)} signs; need {SHORTEST} or more, better a few words"
        )
    return password
