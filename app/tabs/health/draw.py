"""What the Health tab shows, and which answer goes where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app import background, cards
from app.desk import Desk
from app.shell import Shared, look_at
from app.tabs.health.answer import Answers
from app.tabs.health.watching import Brought
from app.toolkit import ASKED_AGAIN, QUIET, gr, with_names

TITLE = "Health"


def lay_out(desk: Desk, shared: Shared) -> None:
    """Inside its gr.Tab."""
    answers = Answers(desk)
    told = gr.HTML(js_on_load=background.asks("health"), elem_id="jp-health-verdict")
    tools = background.controls("health", "Measure", 110)
    drawn = gr.HTML(js_on_load=cards.ON_CLICK, elem_id="jp-health-drawn")
    gr.HTML(
        '<h2 class="jp-health-title">Are today’s images still like those it was judged by?</h2>'
    )
    upload = with_names(
        gr.File(
            label="Images of today",
            height=96,
            file_count="multiple",
            visible=desk.engine.null is not None,
            elem_id="jp-health-upload",
        )
    )
    watched = gr.HTML(js_on_load=cards.ASKS, elem_id="jp-health-watched")
    with gr.Column(visible=desk.engine.bundle is not None and not desk.engine.remote):
        connect_covering(answers, shared)
    brought = gr.State(None)
    background.connect(
        TITLE, answers.job, answers.begin, answers.shown, [told, drawn], tools, shared
    )

    def watch(kept: Brought | None, event: gr.SelectData) -> Any:
        """A gateway is asked anew with every look at the tab."""
        return answers.watch(kept) if event.value == TITLE else gr.skip()

    def look(event: gr.EventData) -> tuple[Any, ...]:
        return look_at(str(event.id))

    shared.tabs.select(watch, brought, watched, **QUIET)
    watched.open(answers.watch, brought, watched, **ASKED_AGAIN)
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
    gallery = gr.HTML(js_on_load=cards.ON_CLICK + cards.ASKS, elem_id="jp-health-gallery")
    stop = gr.Button("Stop", size="sm", min_width=90, scale=0, visible=False)
    covered = gr.HTML(elem_id="jp-health-covered")

    def cover(event: gr.EventData) -> Iterator[tuple[str, Any]]:
        for html in answers.cover(str(event.id)):
            yield html, gr.Button(visible=True)
        yield html, gr.Button(visible=False)

    shared.page.load(lambda: answers.gallery(0), None, gallery, **QUIET)
    gallery.open(lambda: answers.gallery(0), None, gallery, **ASKED_AGAIN)
    running = gallery.click(cover, None, [covered, stop], trigger_mode="always_last", **QUIET)
    stop.click(
        lambda: ("", gr.Button(visible=False)), None, [covered, stop], cancels=[running], **QUIET
    )
