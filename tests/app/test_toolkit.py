"""What Gradio is told so that it leaves a machine alone, and bears with a busy one."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from app.toolkit import LOOKS_EVERY_S, ServerFailedToStartError, calm, gr, patiently


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


def test_the_queue_of_a_page_is_calm() -> None:
    page = gr.Blocks(analytics_enabled=False)
    hasty = page._queue.sleep_when_free
    assert calm(page) is page
    assert page._queue.sleep_when_free == LOOKS_EVERY_S > hasty
