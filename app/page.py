"""The Gradio page: its frame. What is inside lies in the tabs (shell.py, tabs/).

`launch` opens it on 127.0.0.1, or where its `Door` says. It fetches nothing from elsewhere and hands out
no files: pictures travel inside the page, as thumbnails of the index.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware
from starlette.requests import Request

from app import cards
from app.desk import Desk
from app.door import Door, bracketed
from app.door.guard import USER, Guard
from app.engine import Connect, check_same_space, engine_for
from app.library import Library
from app.place import open_at
from app.shell import Selection, Shared, find_tabs, routes, scripts, styles
from app.toolkit import QUIET, Font, calm, gr, is_http_url_like, visitor
from app.visitor import Visitors
from jepack.client import Client
from jepack.decoding import MAX_BYTES
from jepack.machine import loopback, without_proxies

PROBE_EVERY_S = 5.0
HERE = Door()


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
    url: str | None = None,
    port: int = 7860,
    block: bool = False,
    *,
    bundle: Path | str | None = None,
    connect: Connect = Client,
    door: Door = HERE,
) -> Page:
    """Open the page over an index on http://127.0.0.1:`port`; 0 takes a free port. `door`: for others, too.

    Uploads are embedded by the `bundle` in this process, or by the endpoint at `url`, of which `connect`
    makes a client. Raises ArtifactError when there is no sound index or bundle, ServerError when the port is
    taken, ConfigError when there is no such port.
    """
    library = Library(index_folder)
    engine = engine_for(url, None if bundle is None else Path(bundle), connect)
    check_same_space(engine, library.store.info, library.folder)
    page = open_page(Desk(library, engine), port, door)
    if block:
        try:
            page.wait()
        finally:
            page.close()
    return page


def open_page(desk: Desk, port: int, door: Door = HERE) -> Page:
    """The page over a desk; raises as `launch` does."""
    loopback.check_port(port, "--port")
    desk.journal.asks = visitor
    command = f"jepack app {desk.library.folder}"
    return open_at(port, partial(serve, desk, door), command, door.host)


def serve(desk: Desk, door: Door, port: int) -> Page:
    """The page on a port. Raises OSError when the port is taken."""
    demo = calm(build_page(desk, login=door.accounts is not None))
    started = threading.Event()
    certificate, key = map(str, door.certificate) if door.certificate else (None, None)
    # Gradio asks its own server whether it runs, and takes the way of the environment for that.
    with without_proxies():
        _, address, _ = demo.launch(
            server_name=bracketed(door.host),
            server_port=port,
            ssl_certfile=certificate,
            ssl_keyfile=key,
            ssl_verify=False,  # when it asks itself
            root_path=door.public_url,
            auth_dependency=user_of if door.accounts is not None else None,
            num_workers=0,  # they would hand out files on ports of their own
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
            _frontend=False,  # else its own first page must answer in 3 s, also on a busy machine
            theme=theme(),
            css_paths=list(styles()),
            head=scripts(),
            app_kwargs={
                "middleware": [
                    Middleware(Guard, door=door, port=port, started=started.is_set),
                    Middleware(Visitors),
                ],
                "routes": routes(desk),
            },
        )
    started.set()
    guard_first(demo.app)
    return Page(str(address).rstrip("/").replace("//[::]:", "//localhost:"), demo)


def guard_first(app: Any) -> None:
    """Gradio puts its own middleware around ours, which would answer pages from elsewhere (CORS)."""
    app.user_middleware.sort(key=lambda one: one.cls is not Guard)
    app.middleware_stack = app.build_middleware_stack()


def user_of(request: Request) -> str | None:
    """For Gradio's own routes and events: whom the guard has let in."""
    return request.scope.get(USER)


def build_page(desk: Desk, *, login: bool = False) -> gr.Blocks:
    """The header, the tabs, and what they share. `login`: with who is logged in, and a way out."""
    info = desk.library.store.info
    with gr.Blocks(
        title=f"{info.name} · jepack",
        analytics_enabled=False,
        delete_cache=(600, 3600),  # uploads that nobody searched with
        fill_width=True,
    ) as demo:
        with gr.Row(elem_id="jp-head"):
            gr.HTML(cards.header(info, desk.library.store.count()), elem_id="jp-title")
            status = gr.HTML(
                cards.status("asking", "Asking who embeds", desk.engine.place), elem_id="jp-status"
            )
            if login:
                out = gr.HTML(cards.log_out(""), elem_id="jp-out")
                demo.load(lambda: cards.log_out(visitor()), None, out, **QUIET)
        quality = gr.HTML(desk.quality(), elem_id="jp-quality")
        wanted, selection, query = gr.State(None), gr.State(Selection()), gr.State(None)
        chosen = gr.HTML(js_on_load=cards.ON_CLICK, elem_id="jp-chosen", visible=False)
        with gr.Tabs(elem_id="jp-tabs", overflow_behavior="wrap") as tabs:
            shared = Shared(demo, tabs, wanted, selection, query)
            for name, tab in find_tabs(desk).items():
                with gr.Tab(tab.title, id=name, elem_id=f"jp-tab-{name}"):
                    tab.lay_out(desk, shared)
        selection.change(
            lambda now: gr.HTML(cards.chosen(len(now.ids), now.said), visible=bool(now.ids)),
            selection,
            chosen,
            **QUIET,
        )
        chosen.click(Selection, None, selection, **QUIET)
        demo.load(desk.status, None, status, **QUIET)
        every = gr.Timer(PROBE_EVERY_S)
        every.tick(desk.status, None, status, **QUIET)
        every.tick(desk.quality, None, quality, **QUIET)
    forbid_fetching(demo)
    return demo


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
