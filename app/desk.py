"""What every tab answers with: the open index, who embeds, and how a fault is told.

One desk serves every visitor and holds no state of any of them.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from functools import cached_property

from app import cards
from app.engine import Engine, state_of
from app.library import Library
from jepack.errors import JepackError


class Desk:
    """A library and an engine; `answer.py` of a tab is made with one."""

    def __init__(self, library: Library, engine: Engine) -> None:
        self.library = library
        self.engine = engine

    @cached_property
    def colours(self) -> dict[str, str]:
        """A colour per label, the same in all tabs."""
        return cards.colours_of(list(self.library.labels()))

    def status(self) -> str:
        """Whether uploads would work right now, as HTML."""
        state = state_of(self.engine, self.library.store.info, self.library.folder)
        return cards.status(state.kind, state.headline, state.detail)


def noted(work: Callable[[], str], what: str) -> str:
    """`work()`'s HTML, or a note in its place: a fault must not end the page.

    `what` failed, as a noun: "The search". The terminal keeps what a maintainer needs.
    """
    try:
        return work()
    except Exception as error:
        return note_of(error, what)


def note_of(error: Exception, what: str) -> str:
    """A fault as HTML; one that is not ours leaves its traceback in the terminal."""
    if isinstance(error, JepackError):
        return cards.note(str(error))
    traceback.print_exception(error, file=sys.stderr)
    return cards.note(f"{what} failed: {error}")
