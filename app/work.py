"""Long work beside the page: a thread with progress that can be stopped."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable


class Cancelled(Exception):
    """Raised inside a work that was told to stop."""


class Work:
    """`run(work)` in a thread; it calls `work.advance(share)`, where a stopped one ends.

    One for all visitors: what it makes belongs to the index, not to a person.
    """

    def __init__(self, title: str, run: Callable[[Work], None]) -> None:
        self.title = title
        self.share = 0.0  # done, 0..1
        self.problem: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(run,), name="jepack-work", daemon=True
        )
        self._thread.start()

    def _run(self, run: Callable[[Work], None]) -> None:
        try:
            run(self)
        except Cancelled:
            pass
        except Exception as error:
            traceback.print_exc(file=sys.stderr)  # the terminal keeps what a maintainer needs
            self.problem = str(error)

    def advance(self, share: float) -> None:
        """Tell how much is done. Raises Cancelled in a work that shall stop."""
        self.share = share
        if self._stop.is_set():
            raise Cancelled

    def cancel(self) -> None:
        self._stop.set()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def wait(self, timeout_s: float | None = None) -> None:
        self._thread.join(timeout_s)
