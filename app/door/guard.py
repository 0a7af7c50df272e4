"""What every request passes before the page: from where it is asked, by whom, for what, and with how much.

Gradio's own login is not used: it leaves own routes and some of Gradio's open, knows no address to limit
wrong passwords by, and sends its cookie to other sites under TLS.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.door.login import Login, login_page
from app.door.options import Door
from jepack.decoding import MAX_BYTES

USER = "jepack.user"  # of a request's scope: who asks
# What the page asks of Gradio. All else that Gradio answers to stays closed: files by path, addresses it
# would fetch, a client's calls, monitoring, recordings, its history of runs.
OPEN = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json)|/(assets|static|svelte|jepack)/.+|/gradio_api/"
    r"(startup-events|theme\.css|app_id|queue/(join|data)|upload|upload_progress|cancel|reset|heartbeat/[^/]+)"
)
UPLOAD = "/gradio_api/upload"
STARTUP = "/gradio_api/startup-events"  # Gradio asks itself for it while it starts
KEPT = ("/assets/", "/static/")  # Gradio's own files, the same for everybody
MOST_SENT = MAX_BYTES  # bytes of a request
MOST_UPLOADED = 16 * MAX_BYTES  # of one that brings files, each of at most MAX_BYTES
Answer = Response | None  # None: it may pass


class TooMuchSentError(Exception):
    """A request's body is beyond its limit."""


class Guard:
    """ASGI, around Gradio's application; `started` tells whether Gradio has asked itself."""

    def __init__(
        self, app: ASGIApp, door: Door, port: int, started: Callable[[], bool] = lambda: True
    ) -> None:
        self.app, self.door, self.started = app, door, started
        self.login = None if door.accounts is None else Login(door.accounts, port, door.secure)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self.ask(Request(scope, receive), send)
        else:
            await send({"type": "websocket.close", "code": 1008})  # the page speaks none

    async def ask(self, request: Request, send: Send) -> None:
        tell = self.with_headers(request.scope["path"], send)
        answer = self.from_elsewhere(request) or await self.by_somebody(request)
        if answer is None and not OPEN.fullmatch(request.scope["path"]):
            answer = PlainTextResponse("The page has no such address.", 404)
        if answer is None:
            await self.bounded(request, tell)
        else:
            await answer(request.scope, request.receive, tell)

    def from_elsewhere(self, request: Request) -> Answer:
        """A web page elsewhere can give this machine a name of its own, or ask it from its own place; a
        browser says so."""
        name, headers = host_of(request.headers), request.headers
        if name is None or not (
            name in self.door.names or (self.door.any_address and is_address(name))
        ):
            return PlainTextResponse(
                f"Asked as {headers.get('host', '')!r:.80}, a name that is not known here. `jepack app` "
                "takes a further one as --public-url.",
                400,
            )
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in self.origins(request):
            return PlainTextResponse(
                f"Asked by a page of {origin!r:.80}. Behind a proxy `jepack app` takes the address that "
                "people see as --public-url.",
                403,
            )
        if (
            headers.get("sec-fetch-site") in ("cross-site", "same-site")
            and headers.get("sec-fetch-mode") != "navigate"
        ):
            return PlainTextResponse("Asked by a page from elsewhere.", 403)
        return None

    def origins(self, request: Request) -> set[str]:
        own = {f"{request.scope['scheme']}://{request.headers['host']}".lower()}
        if self.door.public_url is not None:
            parts = urlsplit(self.door.public_url.lower())
            own.add(f"{parts.scheme}://{parts.netloc}")
        return own

    async def by_somebody(self, request: Request) -> Answer:
        """Log in, log out; 401 for who has not."""
        path = request.scope["path"]
        if self.login is None or (path == STARTUP and not self.started()):
            return None
        if path == "/login":
            return await self.login.come_in(request)
        user = self.login.user(request)
        if path == "/logout":
            return self.login.leave(request)
        if user is None:
            if path == "/" and request.method in ("GET", "HEAD"):
                return login_page()
            return PlainTextResponse("Log in first.", 401)
        request.scope[USER] = user
        return None

    async def bounded(self, request: Request, tell: Send) -> None:
        """Pass it on, as long as it does not send too much."""
        most = MOST_UPLOADED if request.scope["path"] == UPLOAD else MOST_SENT
        told, got, answered = request.headers.get("content-length", "0"), 0, False

        async def receive() -> Message:
            nonlocal got
            message = await request.receive()
            got += len(message.get("body", b""))
            if got > most:
                raise TooMuchSentError
            return message

        async def send(message: Message) -> None:
            nonlocal answered
            answered = True
            await tell(message)

        try:
            if not told.isdecimal() or int(told) > most:
                raise TooMuchSentError
            await self.app(request.scope, receive, send)
        except TooMuchSentError:
            if answered:
                raise
            refusal = PlainTextResponse(f"The request is larger than {most:,} bytes.", 413)
            await refusal(request.scope, request.receive, tell)

    def with_headers(self, path: str, send: Send) -> Send:
        """No other site may show what is answered, and no disk keep what only some may see."""
        if self.login is None:
            return send

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("X-Frame-Options", "SAMEORIGIN")
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
                headers.setdefault("Referrer-Policy", "same-origin")
                if not path.startswith(KEPT):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        return tell


def host_of(headers: Headers) -> str | None:
    """The name or address that a request gives us, without its port."""
    try:
        return urlsplit(f"//{headers.get('host', '')}").hostname
    except ValueError:
        return None


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
