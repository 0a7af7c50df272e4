"""The gateway's part of `jepack serve`: its options checked before any work, its engine, its log."""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jepack.bundle import Bundle
from jepack.client import UnreachableError, address_of
from jepack.errors import ConfigError, ServerError
from jepack.machine import HOST, certificate, loopback
from jepack.measures import Null
from jepack.measures.drift import IMAGES_PER_FALSE_ALARM
from serving import logs
from serving.gateway.engines import EmbeddedEngine, Engine, TritonEngine
from serving.gateway.keys import Keys
from serving.gateway.limits import Limits
from serving.gateway.probing import Probes
from serving.gateway.server import Gateway, log_to
from serving.gateway.shares import Shares
from serving.gateway.watching import NO_NULL, Watch
from serving.served import Served

PORT = 8080
ASK_EVERY_S = 1.0  # a Triton elsewhere that is still starting
STDOUT = "-"  # as the place of a log
PLACE = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[\w.-]+):(?P<port>\d{1,5})")
ENGINES = ("triton", "embedded")


@dataclass(frozen=True, kw_only=True)
class Door:
    """Where the gateway is to listen and who may ask."""

    host: str
    port: int
    chosen: bool  # by the user; else a free port does where this one is taken
    keys: Keys | None
    certificate: tuple[Path, Path] | None

    @classmethod
    def of(
        cls, http: str | None, key_file: Path | None, tls_cert: Path | None, tls_key: Path | None
    ) -> Door:
        """From the options as they were given. Raises ConfigError."""
        host, port = place_of(http) if http else (HOST, PORT)
        door = cls(
            host=host,
            port=port,
            chosen=http is not None,
            keys=Keys.chosen(key_file),
            certificate=certificate(tls_cert, tls_key),
        )
        door.check()
        return door

    def check(self) -> None:
        loopback.check_port(self.port, "--http")
        if not loopback.is_loopback(self.host) and self.keys is None:
            raise ConfigError(
                f"--http {self.host}:{self.port} lets other machines ask, so it needs keys: "
                "--key-file FILE, or JEPACK_KEYS in the environment"
            )

    def open(
        self,
        engines: Sequence[Engine],
        stack: ExitStack,
        limits: Limits | None = None,
        shares: Shares | None = None,
        watches: Sequence[Watch] = (),
        probes: Sequence[Probes] = (),
        log: str | None = None,
    ) -> Gateway:
        """A running gateway, stopped before what the stack holds already; `log`: a file, "-" or None."""
        gateway = self._gateway(engines, self.port, limits, shares, watches, probes)
        try:
            gateway.start()
        except ServerError:
            if self.chosen:
                raise
            gateway = self._gateway(engines, 0, limits, shares, watches, probes).start()
        stack.callback(handler_for(log, gateway.port).close)
        stack.callback(gateway.stop)  # first: what is in flight is told in the log
        return gateway

    def _gateway(
        self,
        engines: Sequence[Engine],
        port: int,
        limits: Limits | None,
        shares: Shares | None,
        watches: Sequence[Watch],
        probes: Sequence[Probes],
    ) -> Gateway:
        return Gateway(
            engines,
            host=self.host,
            port=port,
            keys=self.keys,
            limits=limits,
            certificate=self.certificate,
            watches=watches,
            shares=shares,
            probes=probes,
        )


@dataclass(frozen=True)
class Watching:
    """What the gateway is to watch by, and how often it may be wrong."""

    nulls: dict[str, Null]  # fingerprint of a projection: its bundle's null, where it has one
    images_per_false_alarm: float | None  # None: nothing is watched

    @classmethod
    def of(
        cls, bundles: Sequence[Bundle], images_per_false_alarm: float | None, no_watch: bool
    ) -> Watching:
        """From the options as they were given. Raises ConfigError."""
        if no_watch and images_per_false_alarm is not None:
            raise ConfigError("--no-watch leaves nothing for --images-per-false-alarm")
        rate = None if no_watch else images_per_false_alarm or IMAGES_PER_FALSE_ALARM
        found = {one.fingerprints["projection"]: one.null() for one in bundles}
        return cls({name: null for name, null in found.items() if null is not None}, rate)

    def notes(self, bundles: Sequence[Bundle]) -> list[str]:
        """What a user must know before it is missed."""
        if self.images_per_false_alarm is None:
            return []
        lost = [one for one in bundles if one.fingerprints["projection"] not in self.nulls]
        return [f"{one.name}: drift is not watched, {NO_NULL}" for one in lost]

    def by(self, engine: Engine) -> Watch:
        null = self.nulls.get(engine.endpoint.fingerprints["projection"])
        return Watch(engine.endpoint, null, images_per_false_alarm=self.images_per_false_alarm)


def place_of(http: str) -> tuple[str, int]:
    found = PLACE.fullmatch(http)
    if found is None:
        raise ConfigError(f"--http takes host:port, such as {HOST}:{PORT}, found {http!r:.100}")
    return found["host"].strip("[]"), int(found["port"])


def log_file(port: int) -> Path:
    """Beside Triton's."""
    return logs.default(port).with_name(f"gateway-{port}.log")


def handler_for(log: str | None, port: int) -> logging.Handler:
    """Where requests are told: a file, standard output for "-", where a container's log is read."""
    return log_to(sys.stdout if log == STDOUT else Path(log) if log else log_file(port))


def check_engine(name: str) -> None:
    if name not in ENGINES:
        try:
            over_grpc = address_of(name).kind == "grpc"
        except ConfigError as error:
            raise ConfigError(
                f"--engine is {', '.join(ENGINES)} or the gRPC address of a Triton; {error}"
            ) from error
        if not over_grpc:
            raise ConfigError(f"--engine {name} is HTTP; Triton is asked over gRPC, at host:port")


def engines_of(
    kind: str,
    served: Sequence[Served],
    url: str | None,
    stack: ExitStack,
    *,
    max_batch_size: int,
    threads: int | None,
    wait_s: float = 0.0,
) -> list[Engine]:
    """One for each bundle, closed by the stack; `url` is that of our own Triton.

    A Triton elsewhere that does not answer yet is asked again for `wait_s`. Raises ServerError for one that
    serves another bundle, or none.
    """
    engines: list[Engine] = []
    end = time.monotonic() + wait_s
    for one in served:
        engine: Engine
        if kind == "embedded":
            engine = EmbeddedEngine(
                one.bundle, name=one.name, version=one.version,
                max_batch_size=max_batch_size, threads=threads,
            )  # fmt: skip
        else:
            engine = patiently(
                partial(TritonEngine, url or kind, one.bundle, model=one.model, name=one.name), end
            )
        stack.callback(engine.close)
        told = engine.endpoint
        if told.fingerprints != one.bundle.fingerprints or told.version != one.version:
            raise ServerError(
                f"{url or kind} serves another encoder as {one.model} than {one.bundle.folder}"
            )
        engines.append(engine)
    return engines


def patiently(make: Callable[[], Engine], end: float) -> Engine:
    """An engine, made again until `end` (of time.monotonic) while nobody answers there."""
    while True:
        try:
            return make()
        except UnreachableError:
            if time.monotonic() > end:
                raise
            time.sleep(ASK_EVERY_S)


def check_shares(shares: Shares, served: Sequence[Served]) -> None:
    """Raise ConfigError for a share that nobody can have."""
    several = {one.name for one in served if not one.only}
    shares.check(several)
    if shares.given and not several:
        raise ConfigError(
            "--canary needs two versions of a name: jepack serve photos=OLD photos=NEW --canary 0.1"
        )
