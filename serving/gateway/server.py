"""uvicorn on a thread, and the gateway's log."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import TextIO

import uvicorn

from jepack.errors import ConfigError, ServerError
from jepack.machine import HOST, is_loopback, loopback
from serving.gateway.app import build, listed
from serving.gateway.engines import Engine, limits_for
from serving.gateway.front import LOG
from serving.gateway.keys import VARIABLE, Keys
from serving.gateway.limits import Limits
from serving.gateway.probing import Probes
from serving.gateway.protocol import protocol_with
from serving.gateway.shares import Shares
from serving.gateway.watching import Watch

DRAIN_S = 30.0  # for requests in flight when the gateway stops
START_S = 20.0


class Gateway:
    """Answers HTTP at `host`:`port` from `start` to `stop`; a port of 0 picks a free one.

    Raises ConfigError where others than this machine could ask without a key.
    """

    def __init__(
        self,
        engine: Engine | Sequence[Engine],
        *,
        host: str = HOST,
        port: int = 8080,
        keys: Keys | None = None,
        limits: Limits | None = None,
        certificate: tuple[Path, Path] | None = None,
        watches: Sequence[Watch] = (),
        shares: Shares | None = None,
        probes: Sequence[Probes] = (),
    ) -> None:
        here = is_loopback(host)
        if not here and keys is None:
            raise ConfigError(
                f"--http {host}:{port} lets other machines ask, so it needs keys: --key-file FILE, or "
                f"{VARIABLE} in the environment"
            )
        self.limits = limits or limits_for(listed(engine)[0])
        self.host, self.port, self.certificate = host, port, certificate
        app, self._place = build(
            engine,
            limits=self.limits,
            keys=keys,
            only_here=here and keys is None,
            shares=shares,
            watches=watches,
            probes=probes,
        )
        self._config = uvicorn.Config(
            app,
            loop="asyncio",
            http=protocol_with(self.limits, app),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=int(DRAIN_S),
            h11_max_incomplete_event_size=self.limits.header,
            ssl_certfile=str(certificate[0]) if certificate else None,
            ssl_keyfile=str(certificate[1]) if certificate else None,
        )
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.certificate else ''}://{name}:{self.port}"

    def __enter__(self) -> Gateway:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> Gateway:
        listener = listen(self.host, self.port)
        self.port = listener.getsockname()[1]
        self._place.watches.start()
        server = uvicorn.Server(self._config)
        failure: list[BaseException] = []

        def serve() -> None:
            try:
                server.run(sockets=[listener])
            except BaseException as error:
                failure.append(error)
            finally:
                listener.close()

        self._server = server
        self._thread = threading.Thread(target=serve, name="jepack-http", daemon=True)
        self._thread.start()
        end = time.monotonic() + START_S
        while not server.started:
            if failure or not self._thread.is_alive() or time.monotonic() > end:
                self.stop()
                told = f": {failure[0]}" if failure else ""
                raise ServerError(f"the gateway did not start at {self.url}{told}")
            time.sleep(0.01)
        return self

    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def stop(self) -> None:
        """Take no more, finish what is in flight, return when it is answered."""
        self._place.health.ending = True
        if self._server is not None:
            self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(DRAIN_S + 5)
            self._thread = None
        self._place.queue.close()
        self._place.watches.close()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ServerError for a port that is taken, ConfigError for no host."""
    try:
        if host == HOST:
            found = loopback.hold(port)
        else:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            found = loopback.tcp(family)
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind((host, port))
        found.listen(2048)
    except socket.gaierror as error:
        raise ConfigError(
            f"--http {host}:{port}: no such address of this machine ({error})"
        ) from error
    except OSError as error:
        raise ServerError(
            f"--http {host}:{port} cannot be had ({error.strerror}). Choose another port, 0 picks a free one"
        ) from error
    return found


class JsonLines(logging.Formatter):
    """Requests are told as JSON already; whatever else is logged becomes such a line too."""

    def format(self, record: logging.LogRecord) -> str:
        if record.levelno <= logging.INFO and record.name == LOG.name:
            return record.getMessage()
        told = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["trace"] = self.formatException(record.exc_info)
        return json.dumps(told)


def log_to(place: Path | TextIO) -> logging.Handler:
    """The gateway's log, a JSON object a line, no image and no key in it; a file is kept to two of 50 MB."""
    handler: logging.Handler
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(place, maxBytes=50_000_000, backupCount=1, delay=True)
    else:
        handler = logging.StreamHandler(place)
    handler.setFormatter(JsonLines())
    for name, level in ((LOG.name, logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.propagate = False
        logger.addHandler(handler)
    return handler
