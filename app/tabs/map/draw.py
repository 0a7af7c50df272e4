"""What the Map tab shows, and which answer goes where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app import cards
from app.desk import Desk
from app.shell import Selection, Shared
from app.tabs.map import pieces
from app.tabs.map.answer import NOTHING, Answers, Board
from app.tabs.search.visit import Query
from app.toolkit import ASKED_AGAIN, QUIET, gr

EVERY_S = 1.0  # between looks at the work


@dataclass(frozen=True)
class Components:
    """What of the tab shows an answer, or asks for one."""

    plot: gr.HTML
    kind: gr.Radio
    by: gr.Dropdown
    stop: gr.Button
    state: gr.HTML
    legend: gr.HTML
    groups: gr.HTML
    timer: gr.Timer


def lay_out(desk: Desk, shared: Shared) -> None:
    """Inside its gr.Tab."""
    answers = Answers(desk)
    connect(answers, components(answers), shared)


def components(answers: Answers) -> Components:
    with gr.Row(elem_id="jp-map-bar"):
        kind = gr.Radio(
            [("Neighbourhoods", "umap"), ("Main directions", "pca")],
            value=answers.first_kind(),
            label="Arranged by",
            elem_id="jp-map-kind",
        )
        by = gr.Dropdown(
            [(NOTHING, "")], value="", label="Coloured by", elem_id="jp-map-by", min_width=200
        )
        stop = gr.Button(
            "Stop", size="sm", visible=False, scale=0, min_width=90, elem_id="jp-map-stop"
        )
    state = gr.HTML(elem_id="jp-map-now")
    with gr.Row(elem_id="jp-map-desk"):
        with gr.Column(scale=9, min_width=320, elem_id="jp-map-left"):
            plot = gr.HTML(
                html_template=pieces.TEMPLATE,
                js_on_load=pieces.ON_LOAD,
                elem_id="jp-map-plot",
                view={},
                chosen="",
                mark=[],
            )
        with gr.Column(scale=4, min_width=260, elem_id="jp-map-right"):
            legend = gr.HTML(js_on_load=cards.ON_CLICK, elem_id="jp-map-names")
            groups = gr.HTML(js_on_load=cards.ON_CLICK, elem_id="jp-map-all-groups")
    timer = gr.Timer(EVERY_S, active=False)
    return Components(plot, kind, by, stop, state, legend, groups, timer)


def connect(answers: Answers, tab: Components, shared: Shared) -> None:
    """Inside a gr.Blocks."""
    asked = [tab.kind, tab.by]
    outputs = [
        tab.plot, tab.kind, tab.by, tab.legend, tab.groups, tab.state, tab.stop, tab.timer
    ]  # fmt: skip
    tab.plot.open(lambda *now: shown(answers.show(*now)), asked, outputs, **ASKED_AGAIN)
    tab.kind.input(lambda *now: shown(answers.show(*now)), asked, outputs, **QUIET)
    tab.by.input(lambda *now: shown(answers.show_again(*now)), asked, outputs, **QUIET)
    tab.timer.tick(lambda *now: shown(answers.tick(*now)), asked, outputs, **QUIET)
    tab.stop.click(lambda by: shown(answers.stop(by)), tab.by, outputs, **QUIET)

    def pick(event: gr.EventData) -> tuple[Any, Any]:
        return answers.pick(int(event.row))

    def choose(event: gr.EventData) -> Selection:
        return answers.choose(str(event.mask))

    def choose_category(by: str, event: gr.EventData) -> Selection:
        return answers.choose_category(int(event.id), by)

    def choose_group(event: gr.EventData) -> Selection:
        return answers.choose_group(int(event.id))

    tab.plot.pick(pick, None, [shared.wanted, shared.tabs], **QUIET)
    tab.plot.choose(choose, None, shared.selection, **QUIET)
    tab.legend.click(choose_category, tab.by, shared.selection, **QUIET)
    tab.groups.click(choose_group, None, shared.selection, **QUIET)

    def mark(query: Query | None, layout: str) -> Any:
        return gr.HTML(mark=answers.mark(query, layout))

    def mark_again(query: Query | None, event: gr.EventData) -> Any:
        return mark(query, str(event.layout))

    shared.query.change(mark, [shared.query, tab.kind], tab.plot, **QUIET)
    tab.plot.drawn(mark_again, shared.query, tab.plot, **QUIET)  # a place belongs to a layout
    shared.selection.change(
        lambda now: gr.HTML(chosen=answers.chosen(now)), shared.selection, tab.plot, **QUIET
    )


def shown(board: Board) -> tuple[Any, ...]:
    """A board for `connect`'s outputs; what is None stays as it is."""
    plot = gr.skip() if board.view is None else gr.HTML(view=board.view)
    parts = [board.kind, board.by, board.legend, board.groups]
    return (
        plot,
        *(gr.skip() if part is None else part for part in parts),
        board.state,
        gr.Button(visible=board.working),
        gr.Timer(active=board.working),
    )
