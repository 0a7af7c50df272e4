"""Gradio, imported so that it reports nothing and trips over neither a proxy nor another user's folder."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.place import own_folder
from jepack.machine import without_proxies

own_folder()  # Gradio writes there while it is imported
# It reports its start and asks for its newest version otherwise.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

# It makes httpx clients while it is imported, which fails under a SOCKS proxy.
with without_proxies():
    import gradio as gr
    from gradio import http_server
    from gradio.context import LocalContext
    from gradio.exceptions import ServerFailedToStartError
    from gradio.themes.utils.fonts import Font
    from gradio_client.utils import is_http_url_like

# Seconds between two looks at a queue that is empty; Gradio's own looks, a thousand a second, kept a
# core 6 % busy for a page that nobody has open. What a visitor does waits half of it longer.
LOOKS_EVERY_S = 0.02
PATIENCE_S = 120.0  # for a server to start; Gradio's own five are too few for a busy machine

# How events of the page are connected: no entry in Gradio's own list of functions, no veil over the answer.
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
# How what asks until it is answered (cards.ASKS) is connected: Gradio would skip a second question else.
ASKED_AGAIN: dict[str, Any] = {"trigger_mode": "multiple", **QUIET}


def calm(demo: gr.Blocks) -> gr.Blocks:
    """The page, which leaves the processor alone while nothing is asked of it."""
    demo._queue.sleep_when_free = LOOKS_EVERY_S
    demo._queue.progress_update_sleep_when_free = 1.0  # of gr.Progress, which no tab uses
    return demo


def patiently(server: Any) -> None:
    """Start Gradio's server in a thread, and wait as long as that thread lives.

    Raises ServerFailedToStartError when it ended, which it does at once where its port is taken.
    """
    server.thread = threading.Thread(target=server.run, daemon=True)
    server.thread.start()
    until = time.monotonic() + PATIENCE_S
    while not server.started:
        if not server.thread.is_alive() or time.monotonic() > until:
            raise ServerFailedToStartError("The server of the page did not start.")
        server.thread.join(0.01)


http_server.Server.run_in_thread = patiently  # type: ignore


def forgiving(slider: gr.Slider) -> gr.Slider:
    """The slider, whose number is never out of reach: what is typed is taken as the nearest that is.

    Gradio answers an emptied box, 0 or 999 with an error of its own. (A subclass would be looked for in the
    browser as a component of its own.)
    """

    def preprocess(payload: float | None) -> float:
        wanted = slider.value if payload is None else payload
        return min(max(wanted, slider.minimum), slider.maximum)

    slider.preprocess = preprocess  # type: ignore
    return slider


@dataclass(frozen=True)
class Upload:
    """A file that a visitor brought."""

    path: Path
    name: str  # as they know it; Gradio drops signs from the name on disk


def with_names(file: gr.File) -> gr.File:
    """The component, whose value is a list of `Upload`."""

    def preprocess(payload: Any) -> list[Upload]:
        files = getattr(payload, "root", payload) or []
        return [Upload(Path(one.path), Path(one.orig_name or one.path).name) for one in files]

    file.preprocess = preprocess  # type: ignore
    return file


def visitor() -> str:
    """Who asks for what is answered in this thread, where people log in; else ""."""
    request = LocalContext.request.get(None)
    return (request.username if request is not None else None) or ""


__all__ = [
    "ASKED_AGAIN",
    "QUIET",
    "Font",
    "Upload",
    "calm",
    "forgiving",
    "gr",
    "is_http_url_like",
    "visitor",
    "with_names",
]
