"""What the Compare tab shows, and which answer goes where."""

from __future__ import annotations

from typing import Any

from app import background, cards
from app.desk import Desk
from app.shell import Shared
from app.tabs.compare import pieces
from app.tabs.compare.answer import Answers
from app.toolkit import ASKED_AGAIN, QUIET, gr

TITLE = "Compare"


def lay_out(desk: Desk, shared: Shared) -> None:
    """Inside its gr.Tab."""
    answers = Answers(desk)
    matched = gr.HTML(js_on_load=cards.ASKS, elem_id="jp-compare-matched")
    browse = gr.HTML(js_on_load=cards.ON_CLICK, elem_id="jp-compare-gallery")
    with gr.Row(elem_id="jp-compare-more", elem_classes="jp-tools"):
        others = gr.Button("Other images", size="sm", min_width=120, scale=0)
    query = gr.HTML(elem_id="jp-compare-query")
    rows = gr.HTML(pieces.welcome(), js_on_load=cards.ON_CLICK, elem_id="jp-compare-rows")
    gr.HTML('<h2 class="jp-compare-title">Over all images</h2>')
    told = gr.HTML(js_on_load=background.asks("compare"), elem_id="jp-compare-told")
    tools = background.controls("compare", "Compare all images", 160)
    seed = gr.State(0)
    background.connect(
        TITLE, answers.job, answers.begin, lambda: (answers.shown(),), [told], tools, shared
    )

    def pick(event: gr.EventData) -> tuple[Any, Any]:
        return answers.pick(str(event.id))

    def another(now: int) -> tuple[Any, ...]:
        return (*answers.browse(now + 1), now + 1)

    last: dict[str, Any] = {"trigger_mode": "always_last", **QUIET}  # the last click counts
    for gallery in (browse, rows):
        gallery.click(pick, None, [query, rows], **last)
    shared.page.load(answers.browse, seed, [browse, matched], **QUIET)
    matched.open(answers.browse, seed, [browse, matched], **ASKED_AGAIN)
    others.click(another, seed, [browse, matched, seed], **QUIET)
