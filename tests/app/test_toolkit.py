"""What Gradio is told so that it leaves a machine alone, and bears with a busy one."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.desk import Desk
from app.engine import at_endpoint
from app.library import Library
from app.page import serve
from app.toolkit import LOOKS_EVERY_S, ServerFailedToStartError, patiently
from jepack.machine import loopback


def server(run: Any, *, started: bool = False) -> Any:
    return SimpleNamespace(run=run, started=started)


def test_a_server_is_waited_for_as_long_as_it_is_starting() -> None:
    go = threading.Event()
    slow = server(lambda: (go.wait(60), setattr(slow, "started", True), go.wait(60)))
    waiting = threading.Thread(target=patiently, args=(slow,), daemon=True)
    waiting.start()
    assert waiting.is_alive()  # it has not given up
    go.set()
    waiting.join(60)
    assert slow.started


def test_a_server_that_ends_is_not_waited_for() -> None:
    with pytest.raises(ServerFailedToStartError):
        patiently(server(lambda: None))


def test_the_queue_of_an_open_page_is_calm(digits_index: Path) -> None:
    with loopback.hold(0) as holder:
        port = holder.getsockname()[1]
    page = serve(Desk(Library(digits_index), at_endpoint("127.0.0.1:9")), port)
    try:
        assert page.demo._queue.sleep_when_free == LOOKS_EVERY_S >= 0.01
    finally:
        page.close()
