"""Coming in and going out: the login page, its cookie, and what a wrong password costs."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import logging
import math
import re
from pathlib import Path
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from app.door.accounts import Accounts
from app.door.sessions import Attempts, Sessions

LOG = logging.getLogger("jepack.app")
PAGE = Path(__file__).with_name("login.html").read_text()
AT_ONCE, WAITING = 2, 8  # passwords that are looked at, and that wait for it
LARGEST = 16_384  # bytes of a filled form
PATIENCE_S = 20.0  # until it is there


def source(tag: str) -> str:
    """What CSP calls the page's own style or script."""
    [inside] = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    return "'sha256-" + base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode() + "'"


POLICY = (
    f"default-src 'none'; style-src {source('style')}; script-src {source('script')}; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
)


def login_page(said: str = "", status: int = 401) -> Response:
    """It loads nothing. `said`: why it is shown again."""
    note = f'<p role="alert">{html.escape(said)}</p>' if said else ""
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}
    return Response(PAGE.replace("<!--said-->", note), status, headers, "text/html")


class Login:
    """Sessions of the accounts. Cookies know no port, so their name has it: two pages, two sessions."""

    def __init__(self, accounts: Accounts, port: int, secure: bool) -> None:
        self.accounts, self.secure = accounts, secure
        self.cookie = f"{'__Host-' if secure else ''}jepack-{port}"
        self.sessions, self.attempts = Sessions(), Attempts()
        self._free, self._busy = asyncio.Semaphore(AT_ONCE), 0

    def user(self, request: Request) -> str | None:
        token = request.cookies.get(self.cookie)
        return None if not token else self.sessions.user(token)

    async def come_in(self, request: Request) -> Response:
        if request.method in ("GET", "HEAD"):
            return login_page() if self.user(request) is None else there()
        if request.method != "POST":
            return PlainTextResponse("Send the form.", 405, {"Allow": "GET, HEAD, POST"})
        form = await filled(request)
        if form is None:
            return login_page("That was no filled form.", 400)
        address = request.client.host if request.client else ""
        user, password = form
        wait = self.attempts.begin(address, user)
        if wait:
            return late(
                f"Too many wrong passwords from your address. Try again in {said(wait)}.", wait
            )
        if self._busy >= AT_ONCE + WAITING:
            return late("Many log in just now. Try again in a moment.", 1.0, 503)
        self._busy += 1
        try:
            async with self._free:
                right = await run_in_threadpool(self.accounts.opened_by, user, password)
        finally:
            self._busy -= 1
        if not right:
            LOG.warning("Wrong user name or password, from %s", address or "an unknown address")
            return login_page("Wrong user name or password.")
        self.attempts.right(address, user)
        answer = there()
        answer.set_cookie(
            self.cookie, self.sessions.open(user), secure=self.secure, httponly=True, samesite="lax"
        )
        return answer

    def leave(self, request: Request) -> Response:
        if request.method != "POST":  # a link or a picture elsewhere must not
            return PlainTextResponse("Use the page's button.", 405, {"Allow": "POST"})
        self.sessions.close(request.cookies.get(self.cookie, ""))
        answer = there()
        answer.delete_cookie(self.cookie, secure=self.secure, httponly=True, samesite="lax")
        return answer


def there() -> Response:
    """To the page, also below a path of a proxy."""
    return RedirectResponse("./", 303)


def late(told: str, wait_s: float, status: int = 429) -> Response:
    answer = login_page(told, status)
    answer.headers["Retry-After"] = str(math.ceil(wait_s))
    return answer


def said(seconds: float) -> str:
    return f"{math.ceil(seconds)} s" if seconds < 100 else f"{math.ceil(seconds / 60)} minutes"


async def filled(request: Request) -> tuple[str, str] | None:
    """(user, password) of the form; None for what is none, too large or too slow."""

    async def read() -> bytes:
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > LARGEST:
                return b""
        return body

    try:
        form = parse_qs((await asyncio.wait_for(read(), PATIENCE_S)).decode(), max_num_fields=8)
        return form["user"][0].strip(), form["password"][0]
    except (ValueError, KeyError, asyncio.TimeoutError, ClientDisconnect):
        return None
