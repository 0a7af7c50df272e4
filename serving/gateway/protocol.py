"""uvicorn's HTTP/1.1 with what it leaves open shut: headers that never end, bodies that nobody reads, errors
that are not JSON; and requests without room answered by their heads."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from serving.gateway.door import head_of
from serving.gateway.errors import Refusal, body_of
from serving.gateway.front import Front
from serving.gateway.limits import Limits


def protocol_with(limits: Limits, front: Front) -> type[H11Protocol]:
    """uvicorn's HTTP/1.1 by h11, with a time for headers, for bodies that nobody reads and for answers that
    no client takes, a number of connections, and JSON for what is no request."""

    class Protocol(H11Protocol):
        _late: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle | None = None
        _drop = 0  # bytes of a body whose request is answered already

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                told = f"{limits.connections} connections are open, as many as are held"
                self._say(Refusal(503, "too_many_connections", told, retry_after_s=1, close=True))
            self._watch()

        def data_received(self, data: bytes) -> None:
            if (self._drop or front.queue.is_full) and not (data := self._without_refused(data)):
                self._unset_keepalive_if_required()
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )
            else:
                super().data_received(data)
            self._watch()

        def _without_refused(self, data: bytes) -> bytes:
            """What is left of `data` when requests without room are answered, and their bodies dropped."""
            while data:
                if self._drop:
                    dropped = min(self._drop, len(data))
                    self._drop, data = self._drop - dropped, data[dropped:]
                    continue
                if not self._at_a_start() or (head := head_of(data, limits.header)) is None:
                    break
                if head.body > limits.body:
                    break
                told = front.no_room(head, self.client, self.server_state.default_headers)
                if told is None:
                    break
                self.transport.write(told)
                self._forget()  # its time for headers begins anew
                self._drop, data = head.body, data[head.size :]
            return data

        def _at_a_start(self) -> bool:
            """Whether the next byte is the first of a request."""
            conn = self.conn
            idle = conn.our_state is h11.IDLE and conn.their_state is h11.IDLE
            return idle and not conn.trailing_data[0] and not self.transport.is_closing()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def pause_writing(self) -> None:
            """More is written than the client has taken."""
            super().pause_writing()
            self._unread = self.loop.call_later(limits.unread_s, self.transport.abort)

        def resume_writing(self) -> None:
            self._taken()
            super().resume_writing()

        def _taken(self) -> None:
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None

        def connection_lost(self, exc: Exception | None) -> None:
            self._taken()
            self._forget()
            super().connection_lost(exc)

        def _is_late(self) -> bool:
            """Whether the client is to send headers, or the rest of a request that is answered already."""
            answered = self.cycle is not None and self.cycle.response_complete
            return not self.transport.is_closing() and (
                answered or self.conn.their_state is h11.IDLE
            )

        def _watch(self) -> None:
            if not self._is_late():
                self._forget()
            elif self._late is None:
                self._late = self.loop.call_later(limits.header_s, self._give_up)

        def _forget(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

        def _give_up(self) -> None:
            self._late = None
            if self._is_late():
                self.transport.close()

        def send_400_response(self, msg: str) -> None:
            told = f"no HTTP, or headers over {limits.header:,} bytes"
            self._say(Refusal(400, "invalid_http", told, close=True))

        def _say(self, refusal: Refusal) -> None:
            """An answer without a request; none where one has begun."""
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                body = json.dumps(body_of(refusal, "")).encode()
                head = {
                    "content-type": "application/json",
                    "content-length": str(len(body)),
                    **refusal.headers,
                }
                for event in (
                    h11.Response(status_code=refusal.status, headers=[*head.items()]),
                    h11.Data(data=body),
                    h11.EndOfMessage(),
                ):
                    self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

    return Protocol
