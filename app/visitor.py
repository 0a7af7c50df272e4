"""Whose action it was: each browser has a name of its own, in a cookie that goes when it is closed.

It says nothing of a person, and tells two of them apart who look at one page: *Undo* is about one's own.
"""

from __future__ import annotations

import secrets

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.journal import Journal
from app.toolkit import gr

COOKIE = "jepack-visitor"
LONGEST = 64  # signs of its value that count


class Visitors:
    """ASGI middleware that gives a browser its cookie with the page itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope["type"] == "http" and scope["path"] in ("", "/")
        if not asked or COOKIE in HTTPConnection(scope).cookies:
            return await self.app(scope, receive, send)

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                value = f"{COOKIE}={secrets.token_urlsafe(16)}; Path=/; HttpOnly; SameSite=Lax"
                value += "; Secure" if scope["scheme"] == "https" else ""
                MutableHeaders(scope=message).append("set-cookie", value)
            await send(message)

        return await self.app(scope, receive, with_cookie)


def session_of(request: gr.Request) -> str:
    """Of the browser that asks; where it keeps no cookies, of the page it has open."""
    return str(request.cookies.get(COOKIE) or request.session_hash or "")[:LONGEST]


def undo(journal: Journal, session: str) -> tuple[bool, str]:
    """Take back the newest action of a session: (whether there was one, what to say of it)."""
    undone = journal.undo(session=session)
    if undone is not None:
        return True, f"Undone: {undone}."
    other = journal.newest()
    if other is None:
        return False, "There is nothing to undo."
    return False, f"There is nothing of yours to undo. The newest action is another's: {other}."
