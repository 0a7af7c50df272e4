"""What the Health tab shows, and which answer goes where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app import cards
from app.desk import Desk
from app.shell import Shared, look_at
from app.tabs.health.answer import Answers
from app.tabs.health.watching import Brought
from app.toolkit import QUIET, gr, with_names

EVERY_S = 1.0  # while it is being measured
TITLE = "Health"


def lay_out(desk: Desk, shared: Shared) -> None:
    """Inside its gr.Tab."""
    answers = Answers(desk)
    told = gr.HTML(elem_id="jp-health-verdict")
    with gr.Row(elem_id="jp-health-tools"):
        again = gr.Button("Measure", size="sm", min_width=110, scale=0, elem_id="jp-health-measure")
        stop = gr.Button("Stop", size="sm", min_width=90, scale=0, visible=False)
    drawn = gr.HTML(js_on_load=cards.ON_CLICK, elem_id="jp-health-drawn")
    gr.HTML(
        '<h2 class="jp-health-title">Are today’s images still like those it was judged by?</h2>'
    )
    upload = with_names(
        gr.File(
            label="Images of today",
            height=140,
            file_count="multiple",
            visible=desk.engine.null is not None,
            elem_id="jp-health-upload",
        )
    )
    watched = gr.HTML(elem_id="jp-health-watched")
    with gr.Column(visible=desk.engine.bundle is not None and not desk.engine.remote):
        connect_covering(answers, shared)
    brought, every = gr.State(None), gr.Timer(EVERY_S, active=False)
    outputs = [told, drawn, again, stop, every]

    def shown() -> tuple[Any, ...]:
        verdict, pictures, busy = answers.shown()
        known = answers.job.found is not None
        return (
            verdict,
            pictures,
            gr.Button(visible=not busy and not known),
            gr.Button(visible=busy),
            gr.Timer(active=busy),
        )

    def opened(event: gr.SelectData) -> tuple[Any, ...]:
        """The first look at the tab starts the measuring."""
        if event.value != TITLE:
            return tuple(gr.skip() for _ in outputs)
        return begun()

    def begun() -> tuple[Any, ...]:
        answers.begin()
        return shown()

    def stopped() -> tuple[Any, ...]:
        answers.job.cancel()
        answers.job.wait(5)
        return shown()

    def watch(kept: Brought | None, event: gr.SelectData) -> Any:
        """A gateway is asked anew with every look at the tab."""
        return answers.watch(kept) if event.value == TITLE else gr.skip()

    def look(event: gr.EventData) -> tuple[Any, ...]:
        return look_at(str(event.id))

    shared.page.load(shown, None, outputs, **QUIET)
    shared.tabs.select(watch, brought, watched, **QUIET)
    shared.tabs.select(opened, None, outputs, **QUIET)
    again.click(begun, None, outputs, **QUIET)
    stop.click(stopped, None, outputs, **QUIET)
    every.tick(shown, None, outputs, **QUIET)
    drawn.click(look, None, [shared.wanted, shared.tabs], **QUIET)
    upload.upload(
        lambda files, kept: (*answers.bring(files, kept), None),  # emptied, to take more of them
        [upload, brought],
        [watched, brought, upload],
        **QUIET,
    )


def connect_covering(answers: Answers, shared: Shared) -> None:
    """What a likeness rests on: a click covers the parts of an image. Each visitor has a run of their own."""
    gr.HTML(
        '<h2 class="jp-health-title">What does a likeness rest on?</h2>'
        '<p class="jp-health-empty">Choose an image: its parts are '
        "covered one after the other, and its distance to its nearest is measured again.</p>"
    )
    gallery = gr.HTML(js_on_load=cards.ON_CLICK, elem_id="jp-health-gallery")
    stop = gr.Button("Stop", size="sm", min_width=90, scale=0, visible=False)
    covered = gr.HTML(elem_id="jp-health-covered")

    def cover(event: gr.EventData) -> Iterator[tuple[str, Any]]:
        for html in answers.cover(str(event.id)):
            yield html, gr.Button(visible=True)
        yield html, gr.Button(visible=False)

    shared.page.load(lambda: answers.gallery(0), None, gallery, **QUIET)
    running = gallery.click(cover, None, [covered, stop], trigger_mode="always_last", **QUIET)
    stop.click(
        lambda: ("", gr.Button(visible=False)), None, [covered, stop], cancels=[running], **QUIET
    )
