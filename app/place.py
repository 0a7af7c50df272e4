"""What a page takes of the machine: a port, and a folder for uploads that is its own."""

from __future__ import annotations

import atexit
import errno
import functools
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from jepack.errors import ConfigError, ServerError
from jepack.machine import HOST, loopback

FOLDER = "GRADIO_TEMP_DIR"
TRIES = 3
T = TypeVar("T")


@functools.cache
def own_folder() -> Path:
    """Where this process's pages keep uploads: $GRADIO_TEMP_DIR, else a new folder that goes with it.

    Gradio's own choice, one name for the whole machine, belongs to the first user who opened a page: every
    other one's uploads fail, and that user could read them.
    """
    chosen = os.environ.get(FOLDER)
    if chosen:
        return Path(chosen)
    made, owner = tempfile.mkdtemp(prefix="jepack-page-"), os.getpid()  # mode 700

    def remove() -> None:
        if os.getpid() == owner:  # a forked child leaves it alone
            shutil.rmtree(made, ignore_errors=True)

    atexit.register(remove)
    os.environ[FOLDER] = made  # Gradio looks at it again with every upload
    return Path(made)


def open_at(port: int, start: Callable[[int], T], command: str, host: str = HOST) -> T:
    """What `start` returns for `port`, or for a free one where it is 0.

    `start` raises OSError when it cannot have its port. Raises ServerError, naming `command` with another,
    and ConfigError where this machine has no such `host`.
    """
    for left in reversed(range(TRIES)):
        chosen = port
        try:
            with loopback.hold(port, host) as holder:
                chosen = holder.getsockname()[1]
            return start(chosen)
        except OSError as error:
            if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                raise ConfigError(
                    f"--host {host}: this machine has no such address ({error.strerror}). 0.0.0.0 stands for "
                    "all that it has"
                ) from error
            if port or not left:  # else taken between our look and the server's
                raise ServerError(
                    f"port {chosen} on {host} cannot be used ({error.strerror or error}). Stop what holds "
                    f"it, or choose another; 0 takes a free one: {command} --port 0"
                ) from error
    raise AssertionError
