"""What Gradio is told so that it leaves a machine alone, and bears with a busy one."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from app.toolkit import LOOKS_EVERY_S, ServerFailedToStartError, calm, patiently


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
    hasty = {"sleep_when_free": 0.001, "progress_update_sleep_when_free": 0.01}  # as Gradio has it
    page: Any = SimpleNamespace(_queue=SimpleNamespace(**hasty))
    assert calm(page) is page
    for name, seconds in hasty.items():
        assert getattr(page._queue, name) >= LOOKS_EVERY_S > seconds
