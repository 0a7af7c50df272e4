"""The client for asyncio: `AsyncClient`. Its requests are tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from jepack.client.address import DEFAULT_URL
from jepack.client.answers import OUTPUTS, Embeddings, Endpoint, Output, Rows
from jepack.client.call import Call, Part, begun
from jepack.client.core import Core, Describe, Limit, Pause, Steps
from jepack.client.doors import door_to
from jepack.client.items import Item, listed
from jepack.client.wire import MODEL

T = TypeVar("T")


class AsyncClient:
    """`Client` for asyncio: the same arguments, answers and errors; its calls are awaited.

    Files are read, and pictures written, on a thread. A cancelled call begins no other request; one that is
    on its way over gRPC is left to end by itself, see over_grpc. One event loop after another may use it.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        model: str = MODEL,
        timeout_s: float = 30.0,
        key: str | None = None,
        ca_file: Path | str | None = None,
        fingerprint: str | None = None,
    ) -> None:
        self._core = Core(url, timeout_s, fingerprint)
        self._door = door_to(url, key, ca_file, model)
        self.url, self.timeout_s = url, timeout_s

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._door.aclose()

    async def endpoint(self) -> Endpoint:
        """See Client.endpoint."""
        return await self._drive(self._core.endpoint())

    async def fingerprints(self) -> dict[str, str]:
        """See Client.fingerprints."""
        return dict((await self.endpoint()).fingerprints)

    async def health(self) -> bool:
        """See Client.health."""
        return await self.diagnose() is None

    async def diagnose(self, *, timeout_s: float = 5.0) -> str | None:
        """See Client.diagnose."""
        return await self._drive(self._core.diagnose(timeout_s))

    async def embed(
        self,
        items: Item | Iterable[Item],
        *,
        output: Output = "both",
        probes: str | Sequence[str] = (),
        batch_size: int = 16,
        concurrency: int = 2,
        deadline_s: float | None = None,
        skip_bad: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Embeddings:
        """See Client.embed; `on_progress` is called in the event loop."""
        found = await asyncio.to_thread(listed, items)
        steps = begun(
            self._core, found, output, probes, batch_size, concurrency, deadline_s, skip_bad
        )
        call = await self._drive(steps)
        async with aclosing(self._together(call, concurrency)) as parts:
            async for part in parts:
                call.add(part)
                if on_progress is not None:
                    on_progress(call.done, len(call.items))
        return call.result()

    async def infer(
        self, images: Sequence[bytes], *, timeout_s: float | None = None
    ) -> dict[str, Rows]:
        """See Client.infer."""
        limit = Limit(self.timeout_s if timeout_s is None else timeout_s)
        return await self._drive(self._core.infer(images, OUTPUTS, limit))

    async def _drive(self, steps: Steps[T]) -> T:
        """Do what the steps ask for."""
        answer: Any = None
        failure: Exception | None = None
        while True:
            try:
                step = steps.send(answer) if failure is None else steps.throw(failure)
            except StopIteration as ended:
                return ended.value  # type: ignore[no-any-return]
            answer, failure = None, None
            try:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                elif isinstance(step, Describe):
                    answer = await self._door.adescribe(step.limit_s)
                else:
                    answer = await self._door.asend(
                        step.images, step.outputs, step.limit_s, step.grace_s
                    )
            except Exception as error:
                failure = error

    async def _together(self, call: Call, most: int) -> AsyncGenerator[Part, None]:
        """Parts as they come, `most` batches at once; the next is read ahead."""
        batches, tasks = call.batches(), set[asyncio.Task[Part]]()
        try:
            while (batch := await asyncio.to_thread(next, batches, None)) is not None:
                if len(tasks) == most:
                    for part in await finished(tasks, call):
                        yield part
                tasks.add(asyncio.create_task(self._drive(call.steps(batch))))
            while tasks:
                for part in await finished(tasks, call):
                    yield part
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def finished(tasks: set[asyncio.Task[Part]], call: Call) -> list[Part]:
    """The parts of some tasks, which leave the set. Raises their errors, and BusyError at the deadline."""
    left_s = call.limit.left_s()
    done, _ = await asyncio.wait(
        tasks,
        timeout=None if left_s == float("inf") else max(left_s, 0.001),
        return_when=asyncio.FIRST_COMPLETED,
    )
    if not done:
        raise call.late()
    parts = [task.result() for task in done]
    tasks -= done
    return parts
