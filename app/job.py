"""A figure of an index that takes a while: made once for all visitors, in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from app.work import Cancelled, Work

T = TypeVar("T")


class Job(Generic[T]):
    """`make(work)` in a thread; what it returned is kept until it is asked for under another `key`."""

    def __init__(self, title: str, make: Callable[[Work], T]) -> None:
        self.title = title
        self._make = make
        self._lock = threading.Lock()
        self._work: Work | None = None
        self._key: Hashable = None
        self._found: T | None = None

    def begin(self, key: Hashable) -> None:
        """Start, unless it runs or is done; `key` is what the figure is of: a rebuilt index is another."""
        with self._lock:
            fresh = key == self._key
            if fresh and (self._found is not None or (self._work and self._work.running)):
                return
            if self._work is not None:
                self._work.cancel()
            self._key, self._found = key, None
            self._work = Work(self.title, lambda work: self._run(work, key))

    def _run(self, work: Work, key: Hashable) -> None:
        found = self._make(work)
        with self._lock:
            if key != self._key:
                raise Cancelled
            self._found = found

    def cancel(self) -> None:
        """It may be begun again."""
        if self._work is not None:
            self._work.cancel()

    def wait(self, timeout_s: float | None = None) -> None:
        if self._work is not None:
            self._work.wait(timeout_s)

    @property
    def found(self) -> T | None:
        """None until it is known."""
        with self._lock:
            return self._found

    @property
    def running(self) -> bool:
        return self._work is not None and self._work.running

    @property
    def share(self) -> float:
        """Done, 0..1."""
        return 0.0 if self._work is None else self._work.share

    @property
    def problem(self) -> str | None:
        """Why it failed."""
        return None if self._work is None else self._work.problem
