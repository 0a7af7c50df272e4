"""What the Clean tab shows, and which answer goes where."""

from __future__ import annotations

from typing import Any

from app import cards
from app.desk import Desk, note_of
from app.shell import Shared, look_at
from app.tabs.clean import pieces
from app.tabs.clean.answer import Answers, View
from app.toolkit import QUIET, gr
from app.visitor import session_of

EVERY_S = 0.5  # between two looks at how far the check is


def lay_out(desk: Desk, shared: Shared) -> None:
    """Inside its gr.Tab."""
    answers = Answers(desk)
    view = gr.State(View())
    with gr.Row(elem_id="jp-clean-desk"):
        with gr.Column(scale=3, min_width=270, elem_id="jp-clean-left"):
            overview = gr.HTML(
                pieces.welcome(desk.library.store.count()),
                js_on_load=cards.ON_CLICK,
                elem_id="jp-clean-overview",
            )
            with gr.Row(elem_id="jp-clean-start"):
                start = gr.Button("Check these images", size="sm", elem_id="jp-clean-go")
                stop = gr.Button("Stop", size="sm", visible=False, elem_id="jp-clean-stop")
        with gr.Column(scale=9, min_width=320, elem_id="jp-clean-right"):
            problem = gr.HTML(elem_id="jp-clean-problem")
            cases = gr.HTML(js_on_load=cards.ON_CLICK, elem_id="jp-clean-found")
    every = gr.Timer(EVERY_S, active=False)
    shown = [overview, cases, start, stop, every]

    def draw(now: View) -> tuple[Any, ...]:
        busy = answers.running()
        words = "Check again" if answers.checked() else "Check these images"
        return (
            *answers.show(now), gr.Button(words, visible=not busy), gr.Button(visible=busy),
            gr.Timer(active=busy),
        )  # fmt: skip

    def loaded(now: View) -> tuple[Any, ...]:
        """Idle, it leaves all alone: its answer may come after that of a check begun meanwhile."""
        idle = not answers.running() and not answers.checked()
        return tuple(gr.skip() for _ in shown) if idle else draw(now)

    def begin(now: View) -> tuple[Any, ...]:
        answers.start()
        return draw(now)

    def end(now: View) -> tuple[Any, ...]:
        answers.stop()
        return draw(now)

    def click(now: View, request: gr.Request, event: gr.EventData) -> tuple[Any, ...]:
        told = str(event.id)
        if told.startswith("look "):
            return now, "", *look_at(told.removeprefix("look "))
        try:
            return answers.act(now, told, session_of(request)), "", gr.skip(), gr.skip()
        except Exception as error:
            return now, note_of(error, "This"), gr.skip(), gr.skip()

    shared.page.load(loaded, view, shown, **QUIET)
    every.tick(draw, view, shown, **QUIET)
    start.click(begin, view, shown, **QUIET)
    stop.click(end, view, shown, **QUIET)
    for html in (overview, cases):
        html.click(click, view, [view, problem, shared.wanted, shared.tabs], **QUIET).then(
            draw, view, shown, **QUIET
        )
