"""What the Search tab shows, and which answer goes where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app import cards
from app.desk import Desk
from app.shell import Shared, Wanted
from app.tabs.search import pieces
from app.tabs.search.answer import MOST, Answers, K
from app.tabs.search.visit import Visit
from app.toolkit import ASKED_AGAIN, QUIET, forgiving, gr, with_names

# What page.js is told with: the page's address is a question, and an answer may change the address.
TELLS = "jepackSearch.tell(address => trigger('click', {address}));"
CAMERA = '<button type="button" class="jp-camera-go" data-camera>Take a picture</button>'
HEARS = "watch('value', () => jepackSearch.answered(element));"


@dataclass(frozen=True)
class Components:
    """What of the tab shows an answer, or asks for one."""

    visit: gr.State
    address: gr.HTML
    number: gr.State  # of the page shown
    seed: gr.State  # of its order
    upload: gr.File
    label: gr.Dropdown
    shuffle: gr.Button
    called: gr.Textbox
    browse: gr.HTML
    back: gr.Button
    jump: gr.Number
    place: gr.HTML
    forth: gr.Button
    strip: gr.HTML
    k: gr.Slider
    results: gr.HTML


def lay_out(desk: Desk, shared: Shared) -> None:
    """Inside its gr.Tab."""
    connect(Answers(desk), components(desk), shared)


def components(desk: Desk) -> Components:
    labels = desk.library.labels()
    visit, number, seed = gr.State(Visit()), gr.State(0), gr.State(0)
    address = gr.HTML(js_on_load=TELLS, visible="hidden", elem_id="jp-search-address")
    with gr.Row(elem_id="jp-desk"):
        with gr.Column(scale=4, min_width=330, elem_id="jp-left"):
            upload = with_names(
                gr.File(
                    label="Search with an image of your own",
                    height=76,
                    file_count="multiple",  # so that a second file is told of, not dropped in silence
                    elem_id="jp-upload",
                )
            )
            gr.HTML(CAMERA, elem_id="jp-camera")
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
            called = gr.Textbox(
                placeholder="Find by file name",
                label="Find by file name",
                show_label=False,
                max_lines=1,
                elem_id="jp-called",
            )
            browse = gr.HTML(js_on_load=cards.ASKS, elem_id="jp-gallery")
            with gr.Row(elem_id="jp-pager"):
                back = gr.Button("← Back", size="sm", min_width=80)
                jump = gr.Number(
                    1,
                    precision=0,
                    label="Go to page",
                    show_label=False,
                    min_width=60,
                    elem_id="jp-jump",
                )
                place = gr.HTML(elem_id="jp-place")
                forth = gr.Button("Next →", size="sm", min_width=80)
        with gr.Column(scale=9, min_width=420, elem_id="jp-right"):
            with gr.Row(elem_id="jp-top"):
                strip = gr.HTML(js_on_load=HEARS, elem_id="jp-strip")
                k = forgiving(
                    gr.Slider(
                        1, MOST, value=K, step=1, label="Neighbours", min_width=200, elem_id="jp-k"
                    )
                )
            results = gr.HTML(pieces.welcome(), elem_id="jp-results")
    return Components(
        visit, address, number, seed, upload, label, shuffle, called, browse, back, jump, place, forth,
        strip, k, results,
    )  # fmt: skip


def connect(answers: Answers, tab: Components, shared: Shared) -> None:
    """Inside a gr.Blocks."""

    def ask(k: int, visit: Visit, event: gr.EventData) -> tuple[Any, ...]:
        return answers.ask(str(event.address), k, visit)

    def look(wanted: Wanted | None, k: int, visit: Visit) -> tuple[Any, ...]:
        return answers.look(wanted.name, k, visit) if wanted else answers.nothing()

    shown = [tab.strip, tab.results, tab.visit, shared.query]
    # The last click counts, also where a search is still under way.
    last: dict[str, Any] = {"trigger_mode": "always_last", **QUIET}
    asked = tab.address.click(ask, [tab.k, tab.visit], shown, **last)
    # A value each time: an update without one would make Gradio build the slider anew, no longer forgiving.
    asked.then(
        lambda k, visit: visit.question.k if visit.question else k,
        [tab.k, tab.visit],
        tab.k,
        **QUIET,
    )
    shared.wanted.change(look, [shared.wanted, tab.k, tab.visit], shown, **last)
    # `change`, not `release`: the arrow keys move the slider too.
    tab.k.change(answers.resize, [tab.k, tab.visit], shown, **last)
    tab.upload.upload(
        lambda *given: (*answers.upload(*given), None),  # emptied, to take the same file again
        [tab.upload, tab.k, tab.visit],
        [*shown, tab.upload],
        **QUIET,
    )
    connect_gallery(answers, tab, shared)


def connect_gallery(answers: Answers, tab: Components, shared: Shared) -> None:
    turn: dict[str, Any] = {
        "inputs": [tab.number, tab.label, tab.called, tab.seed, shared.selection],
        "outputs": [tab.browse, tab.jump, tab.place, tab.number, tab.seed],
        **QUIET,
    }
    last: dict[str, Any] = {"trigger_mode": "always_last", **turn}
    # The lambdas' first argument is the page number now shown.
    shared.page.load(answers.browse, **turn)
    tab.browse.open(answers.browse, **{**turn, **ASKED_AGAIN})
    tab.back.click(lambda n, *rest: answers.browse(n - 1, *rest), **turn)
    tab.forth.click(lambda n, *rest: answers.browse(n + 1, *rest), **turn)
    for of in (tab.label, tab.called, shared.selection):
        of.change(lambda n, *rest: answers.browse(0, *rest), **last)
    tab.jump.submit(
        lambda page, *rest: answers.browse((page or 1) - 1, *rest),
        **{**last, "inputs": [tab.jump, *turn["inputs"][1:]]},
    )
    tab.shuffle.click(
        lambda n, label, called, seed, chosen: answers.browse(0, label, called, seed + 1, chosen),
        **turn,
    )
