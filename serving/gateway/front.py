"""What every request passes, whatever it asks: its id, who may come in, the count and the line in the log."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jepack.machine import is_loopback
from serving.gateway.door import Head, written
from serving.gateway.errors import Refusal, body_of
from serving.gateway.keys import Keys
from serving.gateway.limits import Queue
from serving.gateway.metrics import Metrics
from serving.gateway.stream import Stream

LOG = logging.getLogger("jepack.gateway")
DRAINED = 32 * 1024 * 1024  # bytes of a body that is refused by its headers
REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
# Probes have no keys: an orchestrator asks these.
OPEN = re.compile(r"/(health|health/live|health/ready|v1/health/(live|ready)|v2/health/(live|ready)|"
                  r"\.well-known/(live|ready))/?")  # fmt: skip


class Front:
    """ASGI, around the application. `only_here`: only this machine is meant to ask, see `check_here`."""

    def __init__(
        self, app: ASGIApp, keys: Keys | None, metrics: Metrics, queue: Queue, *, only_here: bool
    ) -> None:
        self.app, self.keys, self.metrics, self.only_here = app, keys, metrics, only_here
        self.queue = queue

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        began, headers = time.monotonic(), Headers(scope=scope)
        request_id = id_of(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            self.check(scope["path"], headers)
            if (
                scope["method"] == "POST"
            ):  # here it costs a third of what it costs behind the routes
                self.queue.check()
            await self.app(scope, receive, tell)
        except Refusal as refusal:
            if (
                refusal.status != 429
            ):  # who is to come again keeps the connection, and sends it all anyway
                await Stream(receive).drain(DRAINED)
            await refused(refusal, request_id)(scope, receive, tell)
        except Exception:  # answered by the application already; it must not end the connection
            LOG.exception("request %s failed", request_id)
        finally:
            self.count(scope, headers, request_id, status, time.monotonic() - began)

    def no_room(self, head: Head, client: Any, more: list[tuple[bytes, bytes]]) -> bytes | None:
        """The answer to a request that has no room; None for one that has, or may not ask."""
        began = time.monotonic()
        try:
            self.check(head.path, head.headers)
            self.queue.check()
        except Refusal as refusal:
            if refusal.status != 429:
                return None
            request_id = id_of(head.headers)
            body = json.dumps(body_of(refusal, request_id)).encode()
            scope = {"method": "POST", "client": client, "state": {"request_id": request_id}}
            self.count(scope, head.headers, request_id, 429, time.monotonic() - began)
            return written(refusal, body, [*more, (b"x-request-id", request_id.encode())])
        return None

    def check(self, path: str, headers: Headers) -> None:
        if self.only_here:
            check_here(headers)
        if self.keys is None or OPEN.fullmatch(path):
            return
        key = headers.get("x-api-key") or headers.get("api-key") or ""
        kind, _, value = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            key = value.strip()
        if not key or not self.keys.open_to(key):
            told = "this key opens nothing" if key else "a key is needed"
            raise Refusal(
                401, "invalid_api_key", f"{told}; send authorization: Bearer KEY", close=True
            )

    def count(
        self,
        scope: Mapping[str, Any],
        headers: Headers,
        request_id: str,
        status: int,
        seconds: float,
    ) -> None:
        """The route's own pattern, never the path that was asked: callers must not make new series."""
        route = getattr(scope.get("route"), "path", "none")
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        told: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "request_id": request_id,
            "method": scope["method"],
            "route": route,
            "status": status,
            "seconds": round(seconds, 4),
            "bytes": headers.get("content-length"),
            "client": (scope.get("client") or ("",))[0],
            **scope["state"].get("told", {}),
        }
        LOG.info(json.dumps(told))


def id_of(headers: Headers) -> str:
    """The caller's own where it is one, else a new one."""
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def refused(refusal: Refusal, request_id: str) -> Response:
    body = json.dumps(body_of(refusal, request_id)).encode()
    return Response(body, refusal.status, refusal.headers, "application/json")


def check_here(headers: Headers) -> None:
    """Any web page can ask a port of the machine it is shown on, by another name for it or from its own
    place; a browser says so in these two."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if host and not is_loopback(host):
        raise Refusal(
            403, "host_not_here", f"asked as {host!r:.80}; ask 127.0.0.1, or serve with keys"
        )
    if origin and origin != "null" and not is_loopback(urlsplit(origin).netloc):
        raise Refusal(403, "origin_not_here", f"asked by the page {origin!r:.80}; serve with keys")
    if origin == "null":
        raise Refusal(403, "origin_not_here", "asked by a page without a name; serve with keys")
