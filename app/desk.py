"""What every tab answers with: the open index, who embeds, and how a fault is told.

One desk serves every visitor and holds no state of any of them.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from functools import cached_property

from app import cards
from app.engine import Engine, state_of
from app.journal import Journal
from app.library import Library
from app.quality import of_encoder, of_index
from jepack.errors import JepackError


class Desk:
    """A library and an engine; `answer.py` of a tab is made with one.

    `beside`: desks of other encoders over the same images, to compare with; all else is of this one.
    """

    def __init__(self, library: Library, engine: Engine, beside: Sequence[Desk] = ()) -> None:
        self.library = library
        self.engine = engine
        self.journal = Journal(library.folder)  # what people added
        self.beside = tuple(beside)

    @cached_property
    def colours(self) -> dict[str, str]:
        """A colour per label, the same in all tabs."""
        return cards.colours_of(list(self.library.labels()))

    @property
    def seen(self) -> cards.Seen:
        """How much of a picture the encoder sees."""
        info = self.library.info
        return info.crop_pct, info.crop_mode

    def status(self) -> str:
        """Whether uploads would work right now, as HTML."""
        state = state_of(self.engine, self.library.info, self.library.folder)
        return cards.status(state.kind, state.headline, state.detail, state.remedy)

    def quality(self) -> str:
        """What is known of the encoder, and what is being measured, as HTML."""
        work = self.library.measuring
        busy = f"{work.title}: {work.share:.0%}" if work is not None and work.running else ""
        return cards.quality([*self._of_encoder, *of_index(self.library.scale)], busy)

    @cached_property
    def _of_encoder(self) -> list[str]:
        return of_encoder(self.library.info, self.engine.bundle, self.engine.null)


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
