"""Gradio, imported so that it reports nothing and trips over neither a proxy nor another user's folder."""

from __future__ import annotations

import os
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
    from gradio.themes.utils.fonts import Font
    from gradio_client.utils import is_http_url_like

# How events of the page are connected: no entry in Gradio's own list of functions, no veil over the answer.
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


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


__all__ = ["QUIET", "Font", "Upload", "forgiving", "gr", "is_http_url_like", "with_names"]
