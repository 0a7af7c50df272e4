"""An engine that answers when it is let, and waiting for what must come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any


class Slow:
    """`begun` counts the requests that came to it."""

    def __init__(self, engine: Any) -> None:
        self.endpoint, self.engine = engine.endpoint, engine
        self.let, self.begun = threading.Event(), threading.Semaphore(0)

    def embed(self, images: Any, *, limit_s: float, skip_bad: bool = False) -> Any:
        self.begun.release()
        assert self.let.wait(60)
        return self.engine.embed(images, limit_s=60, skip_bad=skip_bad)

    def problem(self) -> str | None:
        return None

    def close(self) -> None: ...


def wait_until(fact: Callable[[], Any], limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.01)
