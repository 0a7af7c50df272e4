"""The body of a request, a chunk at a time."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.types import Receive

from serving.gateway.errors import Refusal

DRAINED_S = 2.0


class Stream:
    """The body of a request, a chunk at a time."""

    def __init__(self, receive: Receive) -> None:
        self.receive, self.ended = receive, False

    async def next(self) -> bytes:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            self.ended = True
            raise Refusal(400, "gone", "the client went away before its body was there")
        self.ended = not message.get("more_body", False)
        return bytes(message.get("body", b""))

    async def drain(self, most: int) -> None:
        """Read what is left and forget it, for a short time: a client that still writes when its connection
        is closed would miss its answer."""
        with suppress(asyncio.TimeoutError, Refusal):
            await asyncio.wait_for(self._skip(most), DRAINED_S)

    async def _skip(self, most: int) -> None:
        while not self.ended and most > 0:
            most -= len(await self.next())

    async def left(self) -> None:
        """Return when the client has gone; for a request whose body is read."""
        while (await self.receive())["type"] != "http.disconnect":
            pass
