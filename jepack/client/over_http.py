"""The endpoint by the gateway's HTTP; what is asked and answered stands in `gateway`.

In a forked child and in another event loop it opens connections of its own. Redirects are not followed: a
key stays where it was sent to.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from jepack.client.address import Address
from jepack.client.answers import Endpoint
from jepack.client.failures import BusyError, UnreachableError
from jepack.client.gateway import (
    MODELS,
    Received,
    endpoint_of,
    failure_of,
    infer_path,
    listed_as,
    no_gateway,
    request_of,
    rows_of,
)
from jepack.client.wire import MODEL, Answer
from jepack.errors import ConfigError, DependencyError, ServerError

CONNECT_S = 10.0
CONNECTIONS = 32  # on their way at once; the gateway holds about as many
KEPT_S = 3.0  # an idle connection; the gateway closes its end after 5


class HttpDoor:
    """The gateway at an address. In a forked child it opens connections of its own.

    Raises DependencyError without httpx, ConfigError for a proxy of the environment that it cannot use.
    """

    def __init__(
        self,
        address: Address,
        key: str | None = None,
        authority: ssl.SSLContext | None = None,
        model: str = MODEL,
    ) -> None:
        try:
            import httpx
        except ModuleNotFoundError as error:
            raise DependencyError(
                "asking over HTTP needs httpx, which is not installed. "
                "Install it: pip install 'jepack[client]'"
            ) from error
        self.url, self.model = address.url, model
        self._label = model  # with its version, once the gateway has told them
        self._httpx = httpx
        self._options: dict[str, Any] = {
            "base_url": address.target,
            "headers": {
                "accept-encoding": "identity",
                **({"authorization": f"Bearer {key}"} if key else {}),
            },
            # Made once, for it takes longer than a request; nothing to verify without TLS.
            "verify": (authority or httpx.create_ssl_context()) if address.secure else False,
            "trust_env": not address.here,  # past every proxy on this machine
            "limits": httpx.Limits(max_connections=CONNECTIONS, keepalive_expiry=KEPT_S),
        }
        self._closed = False
        self._pool, self._owner = self._opened(httpx.Client), os.getpid()
        self._inherited: list[Any] = []  # of the process above: not ours to close
        self._apool: Any = None
        self._aowner: Any = None
        self._keeper: AsyncGenerator[None, None] | None = None

    def _opened(self, kind: Any) -> Any:
        try:
            return kind(**self._options)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"{self.url}: the proxy that the environment names cannot be used ({error}). "
                "Exempt the address in NO_PROXY, or unset it"
            ) from error

    def describe(self, limit_s: float) -> Endpoint:
        return self._endpoint(self._ask("GET", MODELS, {}, b"", limit_s))

    async def adescribe(self, limit_s: float) -> Endpoint:
        return self._endpoint(await self._aask("GET", MODELS, {}, b"", limit_s))

    def send(
        self, images: Sequence[bytes], outputs: Sequence[str], limit_s: float, grace_s: float = 0.0
    ) -> Answer:
        headers, body = request_of(images, outputs)
        return self._rows(self._ask("POST", infer_path(self._label), headers, body, limit_s))

    async def asend(
        self, images: Sequence[bytes], outputs: Sequence[str], limit_s: float, grace_s: float = 0.0
    ) -> Answer:
        headers, body = request_of(images, outputs)
        return self._rows(await self._aask("POST", infer_path(self._label), headers, body, limit_s))

    def close(self) -> None:
        self._closed = True
        if self._owner == os.getpid():
            self._pool.close()

    async def aclose(self) -> None:
        self.close()
        if self._keeper is not None and self._aowner == here():
            await self._keeper.aclose()

    def _ask(
        self, method: str, path: str, headers: dict[str, str], body: bytes, limit_s: float
    ) -> Received:
        """Raises what went wrong below HTTP, translated, and what the answer tells, see `failure_of`."""
        if self._closed:
            raise ServerError("this client is closed. Make another: Client(...)")
        if self._owner != os.getpid():
            self._inherited.append(self._pool)
            self._pool, self._owner = self._opened(self._httpx.Client), os.getpid()
        end, parts = time.monotonic() + limit_s, list[bytes]()
        asked = self._pool.build_request(
            method, path, headers=headers, content=body, timeout=self._timeout(limit_s)
        )
        try:
            answer = self._pool.send(asked, stream=True)
            try:
                for part in answer.iter_raw():  # each of which may take the whole time
                    parts.append(part)
                    if time.monotonic() > end:
                        raise late(self.url, limit_s)
            finally:
                answer.close()
        except self._httpx.HTTPError as error:
            raise self._translated(error, limit_s) from error
        return self._checked(Received(answer.status_code, answer.headers, b"".join(parts)))

    async def _aask(
        self, method: str, path: str, headers: dict[str, str], body: bytes, limit_s: float
    ) -> Received:
        if self._closed:
            raise ServerError("this client is closed. Make another: AsyncClient(...)")
        if self._aowner != here():  # its connections belong to an event loop
            self._inherited.append(self._apool)
            self._apool, self._aowner = self._opened(self._httpx.AsyncClient), here()
            self._keeper = kept(self._apool)
            await anext(self._keeper)
        asking = self._apool.request(
            method, path, headers=headers, content=body, timeout=self._timeout(limit_s)
        )
        try:
            answer = await asyncio.wait_for(asking, limit_s)
        except asyncio.TimeoutError:
            raise late(self.url, limit_s) from None
        except self._httpx.HTTPError as error:
            raise self._translated(error, limit_s) from error
        return self._checked(Received(answer.status_code, answer.headers, answer.content))

    def _timeout(self, limit_s: float) -> Any:
        return self._httpx.Timeout(limit_s, connect=min(limit_s, CONNECT_S))

    def _translated(self, error: Exception, limit_s: float) -> ServerError:
        kinds, told = self._httpx, str(error) or type(error).__name__
        if isinstance(error, kinds.TimeoutException) and not isinstance(
            error, kinds.ConnectTimeout
        ):
            return late(self.url, limit_s)
        if "CERTIFICATE_VERIFY_FAILED" in told:
            return ServerError(
                f"{self.url}: its certificate is not to be trusted ({told}). Name the authority that signed "
                "it: Client(..., ca_file=FILE), or JEPACK_CA_FILE in the environment"
            )
        # Who speaks another protocol ends the connection or resets it, whichever is seen first.
        hung_up = isinstance(error, (kinds.ReadError, kinds.WriteError)) or (
            "without sending a response" in told or "peer closed" in told
        )
        if hung_up or isinstance(error, (kinds.RemoteProtocolError, kinds.UnsupportedProtocol)):
            if not hung_up:
                return ServerError(
                    f"{self.url}: what answers there does not speak HTTP ({told}). An address of gRPC is "
                    "written host:port"
                )
            if self.url.startswith("http://"):
                bare = self.url.removeprefix("http://")
                return UnreachableError(
                    f"{self.url}: what listens there hung up without an answer ({told}). It is stopping, "
                    f"or it speaks TLS: https://{bare}, or gRPC: {bare}"
                )
        elif isinstance(error, (kinds.ProxyError, kinds.DecodingError, kinds.TooManyRedirects)):
            return ServerError(f"{self.url}: cannot be asked ({told})")
        return UnreachableError(
            f"{self.url}: nothing answers there ({told}). "
            "Start it: jepack serve BUNDLE, or name another address"
        )

    def _checked(self, answer: Received) -> Received:
        if answer.status != 200:
            raise failure_of(answer, self.url)
        return answer

    def _endpoint(self, answer: Received) -> Endpoint:
        try:
            told = json.loads(answer.body)
            self._label = listed_as(told, self.model)
            return endpoint_of(told, self._label)
        except ServerError as error:
            raise ServerError(f"{self.url}: {error}") from error
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise no_gateway(self.url, f"its {MODELS} lacks {error}") from error

    def _rows(self, answer: Received) -> Answer:
        try:
            return rows_of(answer)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise no_gateway(self.url, f"an answer that cannot be read, {error!r:.100}") from error


def here() -> tuple[int, Any]:
    """The process and the event loop that connections are made in."""
    return os.getpid(), asyncio.get_running_loop()


async def kept(pool: Any) -> AsyncGenerator[None, None]:
    """Closes the pool, at the latest when asyncio shuts its event loop down, which ends generators."""
    try:
        yield
    finally:
        await pool.aclose()


def late(url: str, limit_s: float) -> BusyError:
    return BusyError(
        f"{url}: no answer within {limit_s:g} s. Is the server busy? Allow more: timeout_s"
    )
