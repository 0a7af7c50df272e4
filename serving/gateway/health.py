"""Whether the engine works: by a real inference, one at a time, whoever asks how often."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

WAITED_S = 2.0  # for an answer; a busy engine may take longer
FRESH_S = 1.0  # an answer serves everybody for so long
TRUSTED_S = 30.0  # since the last good answer, an engine that has not answered yet counts as busy


class Asked(Protocol):
    """An engine, or all of them."""

    def problem(self) -> str | None: ...


class Health:
    def __init__(self, engine: Asked) -> None:
        self.engine = engine
        self.ending = False  # the gateway takes no more requests
        self._probe: asyncio.Task[None] | None = None
        self._told: tuple[float, str | None] | None = None
        self._good = float("-inf")

    async def problem(self) -> str | None:
        """None when ready."""
        if self.ending:
            return "the server is stopping"
        if self._told is not None and time.monotonic() - self._told[0] < FRESH_S:
            return self._told[1]
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._ask())
        await asyncio.wait({self._probe}, timeout=WAITED_S)
        if self._probe.done() and self._told is not None:
            return self._told[1]
        if time.monotonic() - self._good < TRUSTED_S:
            return None
        return f"a test image was not embedded within {WAITED_S:g} s"

    async def _ask(self) -> None:
        try:
            found = await asyncio.to_thread(self.engine.problem)
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        self._told = (time.monotonic(), found)
        if found is None:
            self._good = time.monotonic()
