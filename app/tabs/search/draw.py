"""What the Search tab shows, and which answer goes where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app import cards
from app.desk import Desk
from app.shell import Shared, Wanted
from app.tabs.search import pieces
from app.tabs.search.answer import MOST, Answers, K
from app.toolkit import QUIET, forgiving, gr, with_names


@dataclass(frozen=True)
class Components:
    """What of the tab shows an answer, or asks for one."""

    query: gr.State
    number: gr.State  # of the page shown
    seed: gr.State  # of its order
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


def lay_out(desk: Desk, shared: Shared) -> None:
    """Inside its gr.Tab."""
    connect(Answers(desk), components(desk, shared), shared)


def components(desk: Desk, shared: Shared) -> Components:
    labels = desk.library.labels()
    query, number, seed = shared.query, gr.State(0), gr.State(0)
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
            browse = gr.HTML(js_on_load=cards.ON_CLICK, elem_id="jp-gallery")
            with gr.Row(elem_id="jp-pager"):
                back = gr.Button("← Back", size="sm", min_width=80)
                place = gr.HTML(elem_id="jp-place")
                forth = gr.Button("Next →", size="sm", min_width=80)
        with gr.Column(scale=9, min_width=420, elem_id="jp-right"):
            with gr.Row(elem_id="jp-top"):
                strip = gr.HTML(elem_id="jp-strip")
                k = forgiving(
                    gr.Slider(
                        1, MOST, value=K, step=1, label="Neighbours", min_width=200, elem_id="jp-k"
                    )
                )
            results = gr.HTML(pieces.welcome(), js_on_load=cards.ON_CLICK, elem_id="jp-results")
    return Components(
        query, number, seed, upload, label, shuffle, browse, back, place, forth, strip, k, results
    )  # fmt: skip


def connect(answers: Answers, tab: Components, shared: Shared) -> None:
    """Inside a gr.Blocks."""

    def pick(k: int, event: gr.EventData) -> tuple[Any, ...]:
        return answers.pick(str(event.id), k)

    def look(wanted: Wanted | None, k: int) -> tuple[Any, ...]:
        return answers.pick(wanted.name, k) if wanted else answers.nothing()

    shown = [tab.strip, tab.results, tab.query]
    # The last click counts, also where a search is still under way.
    last: dict[str, Any] = {"trigger_mode": "always_last", **QUIET}
    for gallery in (tab.browse, tab.results):
        gallery.click(pick, tab.k, shown, **last)
    shared.wanted.change(look, [shared.wanted, tab.k], shown, **last)
    # `change`, not `release`: the arrow keys move the slider too.
    tab.k.change(answers.resize, [tab.query, tab.k], shown, **last)
    tab.upload.upload(
        lambda paths, k: (*answers.upload(paths, k), None),  # emptied, to take the same file again
        [tab.upload, tab.k],
        [*shown, tab.upload],
        **QUIET,
    )
    turn: dict[str, Any] = {
        "inputs": [tab.number, tab.label, tab.seed, shared.selection],
        "outputs": [tab.browse, tab.place, tab.number, tab.seed],
        **QUIET,
    }
    # The lambdas' first argument is the page number now shown.
    shared.page.load(answers.browse, **turn)
    tab.back.click(lambda n, *rest: answers.browse(n - 1, *rest), **turn)
    tab.forth.click(lambda n, *rest: answers.browse(n + 1, *rest), **turn)
    for of in (tab.label, shared.selection):
        of.change(lambda n, *rest: answers.browse(0, *rest), **turn)
    tab.shuffle.click(
        lambda n, label, seed, chosen: answers.browse(0, label, seed + 1, chosen), **turn
    )
