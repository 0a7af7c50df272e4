"""What the Compare tab shows, and which answer goes where."""

from __future__ import annotations

from typing import Any

from app import cards
from app.desk import Desk
from app.shell import Shared
from app.tabs.compare import pieces
from app.tabs.compare.answer import Answers
from app.toolkit import QUIET, gr

EVERY_S = 1.0  # while it is being measured
TITLE = "Compare"


def lay_out(desk: Desk, shared: Shared) -> None:
    """Inside its gr.Tab."""
    answers = Answers(desk)
    matched = gr.HTML(elem_id="jp-compare-matched")
    browse = gr.HTML(js_on_load=cards.ON_CLICK, elem_id="jp-compare-gallery")
    with gr.Row(elem_id="jp-compare-tools"):
        others = gr.Button("Other images", size="sm", min_width=120, scale=0)
    query = gr.HTML(elem_id="jp-compare-query")
    rows = gr.HTML(pieces.welcome(), js_on_load=cards.ON_CLICK, elem_id="jp-compare-rows")
    gr.HTML('<h2 class="jp-compare-title">Over all images</h2>')
    told = gr.HTML(elem_id="jp-compare-told")
    with gr.Row(elem_id="jp-compare-tools-all"):
        again = gr.Button("Compare all images", size="sm", min_width=160, scale=0)
        stop = gr.Button("Stop", size="sm", min_width=90, scale=0, visible=False)
    seed, every = gr.State(0), gr.Timer(EVERY_S, active=False)
    outputs = [told, again, stop, every]

    def shown() -> tuple[Any, ...]:
        html, busy = answers.shown()
        idle = not busy and answers.job.found is None
        return html, gr.Button(visible=idle), gr.Button(visible=busy), gr.Timer(active=busy)

    def opened(event: gr.SelectData) -> tuple[Any, ...]:
        """The first look at the tab starts the measuring."""
        return begun() if event.value == TITLE else tuple(gr.skip() for _ in outputs)

    def begun() -> tuple[Any, ...]:
        answers.begin()
        return shown()

    def stopped() -> tuple[Any, ...]:
        answers.job.cancel()
        answers.job.wait(5)
        return shown()

    def pick(event: gr.EventData) -> tuple[Any, Any]:
        return answers.pick(str(event.id))

    def another(now: int) -> tuple[Any, ...]:
        return (*answers.browse(now + 1), now + 1)

    last: dict[str, Any] = {"trigger_mode": "always_last", **QUIET}  # the last click counts
    for gallery in (browse, rows):
        gallery.click(pick, None, [query, rows], **last)
    shared.page.load(answers.browse, seed, [browse, matched], **QUIET)
    shared.page.load(shown, None, outputs, **QUIET)
    shared.tabs.select(opened, None, outputs, **QUIET)
    others.click(another, seed, [browse, matched, seed], **QUIET)
    again.click(begun, None, outputs, **QUIET)
    stop.click(stopped, None, outputs, **QUIET)
    every.tick(shown, None, outputs, **QUIET)
