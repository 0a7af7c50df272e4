"""Gradio, imported so that it reports nothing and trips over neither a proxy nor another user's folder."""

from __future__ import annotations

import os

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

__all__ = ["Font", "gr", "is_http_url_like"]
