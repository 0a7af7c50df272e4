"""What a request may take, and how many may be on their way: bounded bodies, a bounded queue, deadlines."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request

from jepack.decoding import SERVED
from serving.gateway.errors import Refusal, invalid
from serving.gateway.stream import Stream

T = TypeVar("T")
DEADLINES = (
    "x-request-timeout",
    "x-stainless-read-timeout",
)  # in seconds; OpenAI's clients send the second


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of one request, and of all that are on their way."""

    body: int = 32 * 1024 * 1024  # bytes
    bodies: int = 256 * 1024 * 1024  # bytes of all bodies held at once
    items: int = 128  # images of a request
    image: int = SERVED.bytes  # bytes of one
    pixels: int = SERVED.pixels  # of one, by its header
    header: int = 16 * 1024  # bytes of request line and headers
    header_s: float = 10.0  # until the headers are there
    body_s: float = 30.0  # until the body is there
    request_s: float = 30.0  # from the body to the answer
    unread_s: float = 30.0  # that a client takes nothing of its answer
    workers: int = 8  # requests that the engine sees at once
    waiting: int = 16  # requests that wait for one of them; more are told to come again
    connections: int = 512


def too_many_items(count: int, limits: Limits) -> Refusal:
    return Refusal(
        413, "too_many_items", f"{count} images, the limit is {limits.items} a request; send fewer"
    )


def check_image(size: int, limits: Limits, param: str) -> None:
    if size > limits.image:
        raise Refusal(
            413,
            "image_too_large",
            f"{size:,} bytes, the limit is {limits.image:,} an image; send it smaller",
            param=param,
        )


def deadline_of(request: Request, limits: Limits) -> float:
    """Seconds: the caller's own where a header tells less than the limit. Raises Refusal."""
    for name in DEADLINES:
        text = request.headers.get(name)
        if text is None:
            continue
        try:
            told = float(text)
        except ValueError:
            told = 0.0
        if not 0 < told < math.inf:
            if name != DEADLINES[0]:  # not ours to judge
                continue
            raise invalid("invalid_header", f"{text!r:.40}; a number of seconds above 0", name)
        return min(told, limits.request_s)
    return limits.request_s


async def nobody_leaves() -> None:
    await asyncio.Event().wait()


class Queue:
    """Requests on their way: bytes of their bodies, those that wait, those that the engine works on."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.held = 0  # bytes
        self.waiting = 0
        self.working = 0
        self.usual_s = 0.1  # a moving average of what one takes
        self._free = asyncio.Semaphore(limits.workers)
        self._pool = ThreadPoolExecutor(limits.workers, thread_name_prefix="jepack-gateway")

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def full_s(self) -> int:
        """Whole seconds until about half of those that wait will have been answered, at the rate of late."""
        wait_s = math.ceil(self.usual_s * (1 + self.waiting / 2) / self.limits.workers)
        return min(max(wait_s, 1), 60)

    def full(self) -> Refusal:
        return Refusal(
            429,
            "overloaded",
            "as many requests are on their way as are held. Send less at once, or add servers",
            retry_after_s=self.full_s(),
        )

    @property
    def is_full(self) -> bool:
        return self.waiting >= self.limits.waiting

    def check(self) -> None:
        if self.is_full:
            raise self.full()

    async def body(self, request: Request) -> bytes:
        """The whole body; the bytes count as held until `release`. Raises Refusal."""
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Refusal(415, "compressed_body", "send the body without content-encoding")
        stream, chunks = Stream(request.receive), list[bytes]()
        try:
            await asyncio.wait_for(self._read(request, stream, chunks), self.limits.body_s)
        except asyncio.TimeoutError:
            self._drop(chunks)
            told = f"the body was not there after {self.limits.body_s:g} s"
            raise Refusal(408, "slow_body", told, close=True) from None
        except Refusal:
            self._drop(chunks)
            await stream.drain(2 * self.limits.body)
            raise
        except BaseException:
            self._drop(chunks)
            raise
        return b"".join(chunks)

    def _drop(self, chunks: list[bytes]) -> None:
        self.release(sum(map(len, chunks)))
        chunks.clear()

    async def _read(self, request: Request, stream: Stream, chunks: list[bytes]) -> None:
        told = request.headers.get("content-length", "")
        if told.isascii() and told.isdigit() and int(told) > self.limits.body:
            raise self._too_large()
        size = 0
        while not stream.ended:
            chunk = await stream.next()
            size += len(chunk)
            if size > self.limits.body:
                raise self._too_large()
            if self.held + len(chunk) > self.limits.bodies:
                raise self.full()
            self.held += len(chunk)
            chunks.append(chunk)

    def _too_large(self) -> Refusal:
        return Refusal(
            413,
            "body_too_large",
            f"the limit is {self.limits.body:,} bytes a request; send fewer images at once",
            close=True,
        )

    def release(self, size: int) -> None:
        self.held -= size

    async def _turn(self, limit_s: float, leaving: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Return with a worker that is ours. Raises Refusal."""
        self.waiting += 1
        turn, left = asyncio.ensure_future(self._free.acquire()), asyncio.ensure_future(leaving())
        ours = False
        try:
            await asyncio.wait({turn, left}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            if left.done():
                raise Refusal(400, "gone", "the client went away before its turn came")
            if not turn.done():
                raise Refusal(
                    503,
                    "deadline",
                    f"no worker was free within {limit_s:g} s; the server is overloaded",
                    retry_after_s=self.full_s(),
                )
            ours = True
        finally:
            self.waiting -= 1
            left.cancel()
            if turn.done() and not ours:
                self._free.release()
            turn.cancel()

    async def run(
        self,
        work: Callable[[float], T],
        limit_s: float,
        leaving: Callable[[], Coroutine[Any, Any, None]] = nobody_leaves,
    ) -> T:
        """`work(seconds left)` on a thread, when its turn comes. Raises Refusal when it does not in time.

        `leaving` ends when the caller goes away; then its place is free and nothing is begun. Work that has
        begun is never cancelled: Triton 2.51 can crash when a cancellation meets an answer. It keeps its
        worker until it ends, which Triton's queue makes soon, while its caller is told that it took too long.
        """
        self.check()
        end = time.monotonic() + limit_s
        await self._turn(limit_s, leaving)
        self.working += 1
        began = time.monotonic()
        future = asyncio.get_running_loop().run_in_executor(self._pool, work, end - began)

        def ended(_: object) -> None:
            self.working -= 1
            self.usual_s += 0.1 * (time.monotonic() - began - self.usual_s)
            self._free.release()
            if not future.cancelled():
                future.exception()  # looked at: nobody may wait for it any more

        future.add_done_callback(ended)
        await asyncio.wait({future}, timeout=max(end - time.monotonic(), 0.001))
        if not future.done():
            raise Refusal(504, "deadline", f"no answer within {limit_s:g} s")
        return future.result()


def check_items(count: int, limits: Limits, param: str) -> None:
    if count == 0:
        raise invalid("no_images", "no images; send one at least", param)
    if count > limits.items:
        raise too_many_items(count, limits)
