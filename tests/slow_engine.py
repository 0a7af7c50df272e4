"""An engine that answers when it is let, and waiting for what must come, on a machine however busy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

LONG_S = 300


class Slow:
    """`begun` counts the requests that came to it."""

    def __init__(self, engine: Any) -> None:
        self.endpoint, self.engine = engine.endpoint, engine
        self.let, self.begun = threading.Event(), threading.Semaphore(0)

    def embed(self, images: Any, *, limit_s: float, skip_bad: bool = False) -> Any:
        self.begun.release()
        assert self.let.wait(LONG_S)
        return self.engine.embed(images, limit_s=LONG_S, skip_bad=skip_bad)

    def problem(self) -> str | None:
        return None

    def close(self) -> None: ...


def wait_until(fact: Callable[[], Any], limit_s: float = LONG_S) -> None:
    end = time.monotonic() + limit_s
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.01)
