"""SIGINT and SIGTERM: they end the work at once, but for the steps, which end with one that is saved."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Stop:
    asked: bool = False
    stepping: bool = False  # there is a step to finish and to save

    @contextmanager
    def after_a_step(self) -> Iterator[None]:
        """Inside, a first signal is noted only, for the end of the step to meet."""
        self.stepping = True
        try:
            yield
        finally:
            self.stepping = False


_current: Stop | None = None


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """SIGINT and SIGTERM raise KeyboardInterrupt; a first one during steps lets the step end and save."""
    global _current
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.asked or not stop.stepping:
            raise KeyboardInterrupt
        stop.asked = True

    _current = stop
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        _current = None
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupt() -> None:
    """End the main thread's work, from another thread; steps end by their own vote."""
    if _current is None or not _current.stepping:
        os.kill(os.getpid(), signal.SIGINT)
