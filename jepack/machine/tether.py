"""Commands that end with the process that started them, however it ended.

A Tether is a pipe whose writing end only its owner holds. A command started with it reads the other end as
standard input and interrupts itself when that closes: even a killed owner leaves nothing running.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from typing import Any

VARIABLE = "JEPACK_TETHERED"


class Tether:
    """Held by the owner for as long as it lives."""

    def __init__(self) -> None:
        # The second is never written to and never inherited: it closes when this process ends.
        self._end, self._held = os.pipe()

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[str]:
        """A `jepack` command in a session of its own, so that it can be stopped whole."""
        return subprocess.Popen(
            command, text=True, start_new_session=True, stdin=self._end,
            env={**os.environ, VARIABLE: "1"}, **options,
        )  # fmt: skip


def heed() -> None:
    """Called first by a command: interrupts it (as Ctrl-C would) when its owner is gone."""
    if os.environ.pop(VARIABLE, None):
        threading.Thread(target=wait, name="tether", daemon=True).start()


def wait() -> None:
    os.read(0, 1)  # nothing is ever written
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)  # there, so that it wakes what the command waits for
