"""The Gradio page: choose or upload an image, see its nearest neighbours.

`launch` opens it on 127.0.0.1 only. It fetches nothing from elsewhere and hands out no files: pictures
travel inside the page, as thumbnails of the index.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from app import cards
from app.desk import Desk
from app.library import Connect, Library
from app.place import open_at
from app.toolkit import Font, gr, is_http_url_like
from jepack.client import DEFAULT_URL, Client
from jepack.decoding import MAX_BYTES
from jepack.machine import HOST, loopback, without_proxies

PROBE_EVERY_S = 5.0
# One listener on the component outlives every redraw inside it.
ON_CLICK = """
element.addEventListener('click', event => {
  const chosen = event.target.closest('[data-id]');
  if (chosen) trigger('click', {id: chosen.dataset.id});
});
"""


@dataclass
class Page:
    """An open page. `close` stops its server."""

    url: str
    demo: gr.Blocks

    def wait(self) -> None:
        """Until Ctrl-C, which raises KeyboardInterrupt here."""
        threading.Event().wait()

    def close(self) -> None:
        self.demo.close(verbose=False)


def launch(
    index_folder: Path | str,
    url: str = DEFAULT_URL,
    port: int = 7860,
    block: bool = False,
    *,
    connect: Connect = Client,
) -> Page:
    """Open the page over an index on http://127.0.0.1:`port`; 0 takes a free port.

    `connect` makes a client of the endpoint at `url`. Raises ArtifactError when there is no sound
    index, ServerError when the port is taken, ConfigError when there is no such port.
    """
    library = Library(index_folder)
    loopback.check_port(port, "--port")
    desk = Desk(library, url, connect)
    page = open_at(port, partial(serve, desk), f"jepack app {index_folder}")
    if block:
        try:
            page.wait()
        finally:
            page.close()
    return page


def serve(desk: Desk, port: int) -> Page:
    """The page on a port of this machine. Raises OSError when the port is taken."""
    demo = build_page(desk)
    # Gradio asks its own server whether it runs, and takes the way of the environment for that.
    with without_proxies():
        _, address, _ = demo.launch(
            server_name=HOST,
            server_port=port,
            share=False,
            inbrowser=False,
            prevent_thread_lock=True,
            quiet=True,
            show_error=True,
            max_file_size=MAX_BYTES,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            theme=theme(),
            css_paths=Path(__file__).with_name("page.css"),
            # A web page elsewhere must not reach this one under a name of its own (DNS rebinding).
            app_kwargs={
                "middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])]
            },
        )
    return Page(str(address).rstrip("/"), demo)


@dataclass(frozen=True)
class Components:
    """What of the page shows an answer of the desk, or asks it for one."""

    query: gr.State
    number: gr.State  # of the page shown
    seed: gr.State  # of its order
    status: gr.HTML
    upload: gr.File
    label: gr.Dropdown
    shuffle: gr.Button
    browse: gr.HTML
    back: gr.Button
    place: gr.HTML
    forth: gr.Button
    strip: gr.HTML
    k: gr.Slider
    results: gr.HTML


def build_page(desk: Desk) -> gr.Blocks:
    """The layout, and which of the desk's answers goes where."""
    with gr.Blocks(
        title=f"{desk.library.store.info.name} · jepack",
        analytics_enabled=False,
        delete_cache=(600, 3600),  # uploads that nobody searched with
        fill_width=True,
    ) as demo:
        connect(desk, lay_out(desk), demo)
    forbid_fetching(demo)
    return demo


def lay_out(desk: Desk) -> Components:
    """Inside a gr.Blocks."""
    store, labels = desk.library.store, desk.library.labels()
    query, number, seed = gr.State(None), gr.State(0), gr.State(0)
    gr.HTML(cards.header(store.info, store.count()))
    status = gr.HTML(cards.status("asking", "Asking the endpoint", desk.url), elem_id="jp-status")
    with gr.Tab("Search"), gr.Row(elem_id="jp-desk"):
        with gr.Column(scale=4, min_width=330, elem_id="jp-left"):
            upload = gr.File(
                label="Search with an image of your own", height=76, elem_id="jp-upload"
            )
            with gr.Row(elem_id="jp-filter"):
                label = gr.Dropdown(
                    [
                        ("All labels", ""),
                        *((f"{name} ({n:,})", name) for name, n in labels.items()),
                    ],
                    value="",
                    label="Show the images of one label",
                    show_label=False,
                    visible=len(labels) > 1,
                    elem_id="jp-labels",
                )
                shuffle = gr.Button("Shuffle", size="sm", min_width=80, scale=0)
            browse = gr.HTML(js_on_load=ON_CLICK, elem_id="jp-gallery")
            with gr.Row(elem_id="jp-pager"):
                back = gr.Button("← Back", size="sm", min_width=80)
                place = gr.HTML(elem_id="jp-place")
                forth = gr.Button("Next →", size="sm", min_width=80)
        with gr.Column(scale=9, min_width=420, elem_id="jp-right"):
            with gr.Row(elem_id="jp-top"):
                strip = gr.HTML(elem_id="jp-strip")
                k = gr.Slider(
                    1, 50, value=10, step=1, label="Neighbours", min_width=200, elem_id="jp-k"
                )
            results = gr.HTML(cards.welcome(), js_on_load=ON_CLICK, elem_id="jp-results")
    return Components(
        query, number, seed, status, upload, label, shuffle, browse, back, place, forth, strip, k, results
    )  # fmt: skip


def connect(desk: Desk, page: Components, demo: gr.Blocks) -> None:
    """Inside a gr.Blocks."""

    def pick(k: int, event: gr.EventData) -> tuple[Any, ...]:
        return desk.pick(str(event.id), k)

    # The lambdas' first argument is the page number now shown.
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    shown = [page.strip, page.results, page.query]
    for gallery in (page.browse, page.results):
        gallery.click(pick, page.k, shown, **quiet)
    # `change`, not `release`: the arrow keys move the slider too.
    page.k.change(desk.resize, [page.query, page.k], shown, trigger_mode="always_last", **quiet)
    page.upload.upload(
        lambda path, k: (*desk.upload(path, k), None),  # emptied, to take the same file again
        [page.upload, page.k],
        [*shown, page.upload],
        **quiet,
    )
    turn = {
        "inputs": [page.number, page.label, page.seed],
        "outputs": [page.browse, page.place, page.number, page.seed],
        **quiet,
    }
    demo.load(desk.browse, **turn)
    page.back.click(lambda n, *rest: desk.browse(n - 1, *rest), **turn)
    page.forth.click(lambda n, *rest: desk.browse(n + 1, *rest), **turn)
    page.label.change(lambda n, *rest: desk.browse(0, *rest), **turn)
    page.shuffle.click(lambda n, label, seed: desk.browse(0, label, seed + 1), **turn)
    demo.load(desk.probe, None, page.status, **quiet)
    gr.Timer(PROBE_EVERY_S).tick(desk.probe, None, page.status, **quiet)


def forbid_fetching(demo: gr.Blocks) -> None:
    """Gradio downloads any URL that a request names in the place of a file; this page never does."""
    for block in demo.blocks.values():
        keep = block.async_move_resource_to_block_cache

        async def only_files(path: str | Path | None, keep: Any = keep) -> str | None:
            if path is not None and is_http_url_like(str(path)):
                raise gr.Error("This page takes uploaded files only, no addresses.")
            moved: str | None = await keep(path)
            return moved

        block.async_move_resource_to_block_cache = only_files  # type: ignore


def theme() -> gr.themes.Base:
    """The system's own fonts: nothing is fetched, and the page looks at home."""
    return gr.themes.Base(
        primary_hue="teal",
        neutral_hue="stone",
        font=[Font("system-ui"), Font("-apple-system"), Font("Segoe UI"), Font("sans-serif")],
        font_mono=[Font("ui-monospace"), Font("SFMono-Regular"), Font("monospace")],
    )
