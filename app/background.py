"""A figure made beside the page, as a tab shows it: begun with the first look, its progress, a stop.

What is made, and kept for all visitors, is the `Job`; this holds the buttons around it and who is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.job import Job
from app.shell import Shared
from app.toolkit import ASKED_AGAIN, QUIET, gr

EVERY_S = 1.0  # between looks at how far it is
STOP_S = 5.0  # a stopped one may take to end


@dataclass(frozen=True)
class Controls:
    """What begins a job and stops it; neither is there when there is nothing to do."""

    begin: gr.Button
    stop: gr.Button
    every: gr.Timer


def asks(name: str) -> str:
    """`js_on_load` of the first of `shown`: asks for the job where the look at the tab was lost."""
    button = f"document.querySelector('#jp-{name}-begin')"
    return (
        f"jpAsk(element, () => trigger('open'), () => element.textContent.trim() && "
        f"!{button}?.getClientRects().length, 2000);"
    )


def controls(name: str, words: str, width: int) -> Controls:
    """A row of buttons, `jp-NAME-tools`; `words` begin."""
    with gr.Row(elem_id=f"jp-{name}-tools", elem_classes="jp-tools"):
        begin = gr.Button(words, size="sm", min_width=width, scale=0, elem_id=f"jp-{name}-begin")
        stop = gr.Button(
            "Stop", size="sm", min_width=90, scale=0, elem_id=f"jp-{name}-stop", visible=False
        )
    return Controls(begin, stop, gr.Timer(EVERY_S, active=False))


def connect(
    title: str,
    job: Job[Any],
    begin: Callable[[], None],
    show: Callable[[], tuple[Any, ...]],
    shown: Sequence[gr.HTML],
    tools: Controls,
    shared: Shared,
) -> None:
    """Begin the job with the first look at the tab `title`, and tell of it in the components `shown`.

    `begin` begins the job; `show` gives the values of `shown` as things stand. The first of `shown` is made
    with `asks`.
    """
    outputs = [*shown, tools.begin, tools.stop, tools.every]

    def now() -> tuple[Any, ...]:
        busy = job.running  # before the look, so that one that ends meanwhile is looked at again
        values = show()
        idle = not busy and job.found is None
        return *values, gr.Button(visible=idle), gr.Button(visible=busy), gr.Timer(active=busy)

    def loaded() -> tuple[Any, ...]:
        """Idle, it leaves the buttons alone: its answer may come after that of a tab opened meanwhile."""
        *values, begin_, stop, every = now()
        idle = not job.running and job.found is None
        return *values, *((gr.skip(),) * 3 if idle else (begin_, stop, every))

    def begun() -> tuple[Any, ...]:
        begin()
        return now()

    def opened(event: gr.SelectData) -> tuple[Any, ...]:
        return begun() if event.value == title else tuple(gr.skip() for _ in outputs)

    def stopped() -> tuple[Any, ...]:
        job.cancel()
        job.wait(STOP_S)
        return now()

    shared.page.load(loaded, None, outputs, **QUIET)
    shared.tabs.select(opened, None, outputs, **QUIET)
    shown[0].open(begun, None, outputs, **ASKED_AGAIN)
    tools.begin.click(begun, None, outputs, **QUIET)
    tools.stop.click(stopped, None, outputs, **QUIET)
    tools.every.tick(now, None, outputs, **QUIET)
