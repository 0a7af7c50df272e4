"""What the Probe tab shows, and which answer goes where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from app.desk import Desk
from app.shell import Selection, Shared, look_at
from app.tabs.probe import pieces
from app.tabs.probe.answer import Answers, Board
from app.tabs.probe.bench import Question
from app.tabs.probe.view import CHOSEN, RATES, View
from app.toolkit import ASKED_AGAIN, QUIET, gr
from app.visitor import session_of

EVERY_S = 1.0  # between looks at the work
APART = "Nothing: every image for itself"
# One event after the other: each reads the view that the one before has left. A look at the work that was
# under way while a label was typed would put back the view without it.
IN_TURN: dict[str, Any] = {**QUIET, "concurrency_id": "jp-probe", "concurrency_limit": 1}


@dataclass(frozen=True)
class Components:
    """What of the tab shows an answer, or asks for one."""

    view: gr.State
    start: gr.Radio
    group: gr.Dropdown
    rate: gr.Dropdown
    bench: gr.HTML
    label: gr.Textbox
    add: gr.Button
    on_chosen: gr.Button
    verdict: gr.HTML
    table: gr.HTML
    name: gr.Textbox
    keep: gr.Button
    write: gr.Button
    kept: gr.HTML
    timer: gr.Timer


def lay_out(desk: Desk, shared: Shared) -> None:
    """Inside its gr.Tab."""
    answers = Answers(desk)
    connect(answers, components(answers), shared)


def components(answers: Answers) -> Components:
    first = answers.first()
    view = gr.State(first)
    gr.HTML("<h2>Labels, and what they are worth</h2>", elem_id="jp-probe-heard")
    with gr.Row(elem_id="jp-probe-bar"):
        start = gr.Radio(
            [("The folders and people", False), ("People here alone", True)],
            value=first.question.mine,
            label="Whose labels count",
            elem_id="jp-probe-start",
        )
        group = gr.Dropdown(
            [(APART, "")], value="", label="Keep together in judging", elem_id="jp-probe-group"
        )
        rate = gr.Dropdown(
            [(f"at most {rate:.0%}", rate) for rate in RATES],
            value=first.rate,
            label="Wrong names allowed",
            elem_id="jp-probe-rate",
        )
    with gr.Row(elem_id="jp-probe-desk"):
        with gr.Column(scale=8, min_width=320, elem_id="jp-probe-left"):
            bench = gr.HTML(
                pieces.empty("Opening …"), js_on_load=pieces.ON_LOAD, elem_id="jp-probe-bench"
            )
            with gr.Row(elem_id="jp-probe-new"):
                label = gr.Textbox(
                    placeholder="A new label",
                    label="A new label",
                    show_label=False,
                    max_lines=1,
                    elem_id="jp-probe-label",
                )
                add = gr.Button("Add label", size="sm", min_width=96, scale=0)
                on_chosen = gr.Button(
                    "Give it to all that are chosen",
                    size="sm",
                    min_width=200,
                    scale=0,
                    visible=False,
                )
            table = gr.HTML(js_on_load=pieces.ON_CELL, elem_id="jp-probe-mix-ups")
        with gr.Column(scale=5, min_width=320, elem_id="jp-probe-right"):
            verdict = gr.HTML(elem_id="jp-probe-told")
            with gr.Row(elem_id="jp-probe-keep"):
                name = gr.Textbox(
                    placeholder="Name, such as cracks",
                    label="Name of the probe",
                    show_label=False,
                    max_lines=1,
                    elem_id="jp-probe-name",
                )
                keep = gr.Button("Keep the probe", size="sm", min_width=140, scale=0)
                write = gr.Button("Write the labels", size="sm", min_width=140, scale=0)
            kept = gr.HTML(elem_id="jp-probe-kept")
    timer = gr.Timer(EVERY_S, active=False)
    return Components(
        view, start, group, rate, bench, label, add, on_chosen, verdict, table, name, keep, write, kept, timer
    )  # fmt: skip


def connect(answers: Answers, tab: Components, shared: Shared) -> None:
    """Inside a gr.Blocks."""
    out = [tab.view, tab.bench, tab.verdict, tab.table, tab.timer]

    def on(event: Callable[..., Any], answer: Callable[..., Board], *more: Any) -> None:
        event(lambda *given: shown(answer(*given)), [tab.view, *more], out, **IN_TURN)

    def put(view: View, request: gr.Request, event: gr.EventData) -> tuple[Any, ...]:
        ids = [str(one) for one in event.ids]
        return shown(answers.put(view, ids, str(event.label), session_of(request)))

    def put_on_chosen(view: View, label: str, request: gr.Request) -> tuple[Any, ...]:
        return shown(answers.put_on_chosen(view, label, session_of(request)))

    def undo(view: View, request: gr.Request) -> tuple[Any, ...]:
        return shown(answers.undo(view, session_of(request)))

    def show(view: View, event: gr.EventData) -> tuple[Any, ...]:
        return shown(answers.show(replace(view, what=str(event.what), page=0, asked=(), note="")))

    def turn(view: View, event: gr.EventData) -> tuple[Any, ...]:
        return shown(answers.show(replace(view, page=view.page + int(event.by))))

    def cell(view: View, event: gr.EventData) -> tuple[Any, ...]:
        board, selection = answers.cell(view, str(event.id))
        return *shown(board), gr.skip() if selection is None else selection

    def look(event: gr.EventData) -> tuple[Any, Any]:
        return look_at(str(event.id))

    def choose(view: View, selection: Selection) -> tuple[Any, ...]:
        if not view.opened:
            waiting = replace(view, chosen=selection, what=CHOSEN if selection.ids else "ask")
            return waiting, *[gr.skip()] * 4, gr.Button(visible=bool(selection.ids))
        what = view.what
        if selection.ids and what != "cell":
            what = CHOSEN
        elif not selection.ids and what == CHOSEN:
            what = "ask"
        board = answers.show(replace(view, chosen=selection, what=what, page=0))
        return *shown(board), gr.Button(visible=bool(selection.ids))

    def opened(view: View) -> tuple[Any, ...]:
        columns = answers.work.columns()
        choices = [(APART, ""), *((f"Images with the same {name}", name) for name in columns)]
        if not view.opened:  # else the answer was lost
            group = answers.work.trained_by()  # what training kept together
            view = replace(view, opened=True, question=Question(view.question.mine, group))
        board = shown(answers.show(view))
        return *board, gr.Dropdown(choices, value=view.question.group)

    tab.bench.open(opened, tab.view, [*out, tab.group], **{**IN_TURN, **ASKED_AGAIN})
    tab.bench.put(put, tab.view, out, **IN_TURN)
    tab.bench.show(show, tab.view, out, **IN_TURN)
    tab.bench.turn(turn, tab.view, out, **IN_TURN)
    tab.bench.look(look, None, [shared.wanted, shared.tabs], **IN_TURN)
    tab.bench.undo(undo, tab.view, out, **IN_TURN)
    tab.table.cell(cell, tab.view, [*out, shared.selection], **IN_TURN)
    shared.selection.change(choose, [tab.view, shared.selection], [*out, tab.on_chosen], **IN_TURN)
    on(
        tab.start.input,
        lambda view, mine: answers.show(
            replace(
                view,
                question=Question(mine, view.question.group),
                what="ask" if mine else view.what,
                asked=(),
                page=0,
                note="",
            )
        ),
        tab.start,
    )
    on(
        tab.group.input,
        lambda view, name: answers.show(replace(view, question=Question(view.question.mine, name))),
        tab.group,
    )
    on(tab.rate.input, lambda view, rate: answers.show(replace(view, rate=float(rate))), tab.rate)
    on(tab.timer.tick, answers.tick)
    for event in (tab.add.click, tab.label.submit):
        event(
            lambda view, text: (*shown(answers.add(view, text)), ""),
            [tab.view, tab.label],
            [*out, tab.label],
            **IN_TURN,
        )
    tab.on_chosen.click(put_on_chosen, [tab.view, tab.label], out, **IN_TURN)
    tab.keep.click(
        lambda view, name: answers.noted(lambda: answers.keep(view, name), "Keeping the probe"),
        [tab.view, tab.name],
        tab.kept,
        **IN_TURN,
    )
    tab.write.click(
        lambda view: answers.noted(lambda: answers.write(view), "Writing the labels"),
        tab.view,
        tab.kept,
        **IN_TURN,
    )


def shown(board: Board) -> tuple[Any, ...]:
    """A board for the tab's outputs."""
    parts = (
        gr.skip() if part is None else part for part in (board.bench, board.verdict, board.table)
    )
    return board.view, *parts, gr.Timer(active=board.working)
