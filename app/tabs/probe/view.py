"""What a visitor of the Probe tab looks at, and which images that is."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from app.shell import Selection
from app.store import Row
from app.tabs.probe.bench import Found, Question
from app.tabs.probe.pieces import Shown
from jepack.probing import UNSURE, ask, named, threshold
from jepack.probing.heads import Ints

PER_PAGE = 12
ASK, DOUBT, ALL, MINE, NAMED, UNSURE_ONES, CHOSEN, CELL = (
    "ask", "doubt", "all", "mine", "named", "unsure", "chosen", "cell",
)  # fmt: skip
VIEWS = {
    ASK: "Ask me next",
    ALL: "All",
    MINE: "Labelled by people",
    NAMED: "Named by the probe",
    UNSURE_ONES: "Unsure",
    DOUBT: "Labels it doubts",
}
RATES = (0.01, 0.05, 0.1, 0.2)
RATE = 0.1  # of wrong names, until told


@dataclass(frozen=True)
class View:
    """What one visitor looks at."""

    question: Question
    rate: float = RATE
    what: str = ASK
    page: int = 0
    asked: tuple[str, ...] = ()  # the images shown to be labelled; they stay while labels are given
    cell: tuple[int, int] | None = None
    chosen: Selection = field(default_factory=Selection)
    more: tuple[str, ...] = ()  # labels that were typed here
    note: str = ""  # HTML about the last action
    opened: bool = False  # nothing is computed for a tab that nobody has opened
    drawn: tuple[object, ...] = ()  # what the images were drawn from

    @property
    def choices(self) -> list[tuple[str, str]]:
        """(name, what it says) of the views there are."""
        found = list(VIEWS.items())
        if self.chosen.ids:
            found.append((CHOSEN, f"Chosen ({len(self.chosen.ids):,})"))
        if self.what == CELL:
            found.append((CELL, "From the table"))
        return found


def with_asked(view: View, found: Found) -> View:
    """Choose what to ask, where nothing is asked yet, or all of it is answered."""
    if view.what != ASK:
        return view
    place = {name: row for row, name in enumerate(found.ids)}
    open_ones = [name for name in view.asked if name in place and found.y_N[place[name]] < 0]
    if open_ones:
        return view
    free = free_rows(found)
    # From thousands of images alike the start is by lot otherwise: the seed moves with the labels.
    shares = None if found.shares_NC is None else found.shares_NC[free]
    known = found.x_ND[found.y_N >= 0]
    rows = ask(found.x_ND[free], shares, PER_PAGE, known_KD=known, seed=found.labelled)
    return replace(view, asked=tuple(found.ids[row] for row in free[rows]))


def ids_of(view: View, found: Found) -> list[str]:
    """The ids of a view, in its order."""
    ids, y = found.ids, found.y_N
    if view.what == ASK:
        return list(view.asked)
    if view.what == CHOSEN:
        there = set(ids)
        return [name for name in view.chosen.ids if name in there]
    if view.what == MINE:
        return list(reversed([name for name in found.standing.labels if name in set(ids)]))
    if view.what == CELL and view.cell is not None and found.judgement is not None:
        return [ids[row] for row in cell_rows(found, view.cell)]
    if view.what == DOUBT and found.judgement is not None:
        judged, rows = found.judgement, found.rows
        wrong = np.flatnonzero(judged.answers != y[rows])
        sure = judged.shares[wrong].max(axis=1)
        return [ids[rows[at]] for at in wrong[np.argsort(-sure, kind="stable")]]
    if view.what in (NAMED, UNSURE_ONES) and found.shares_NC is not None:
        free = free_rows(found)
        given = named(found.shares_NC[free], threshold(found.scores, view.rate))
        sure = found.shares_NC[free].max(axis=1)
        kept = (given == UNSURE) == (view.what == UNSURE_ONES)
        order = np.argsort(-sure[kept], kind="stable")
        return [ids[row] for row in free[kept][order]]
    if view.what == ALL:
        mixed = list(ids)
        random.Random(0).shuffle(mixed)
        return mixed
    return []


def free_rows(found: Found) -> Ints:
    """Images that nobody has labelled, nor left out."""
    out = found.standing.left_out
    free = np.flatnonzero(found.y_N < 0)
    return np.array([row for row in free if found.ids[row] not in out], np.int64) if out else free


def cell_rows(found: Found, cell: tuple[int, int]) -> Ints:
    """The images of one cell of the table of mix-ups."""
    assert found.judgement is not None
    true, given = cell
    rows = found.rows
    kept = (found.y_N[rows] == true) & (found.judgement.answers == given)
    return np.asarray(rows[kept], np.int64)


def shown_of(rows: Sequence[Row], view: View, found: Found) -> list[Shown]:
    """Images with what they are called, and what the probe would call them."""
    place = {name: at for at, name in enumerate(found.ids)} if rows else {}
    judged = {} if found.judgement is None else {row: at for at, row in enumerate(found.rows)}
    most = threshold(found.scores, view.rate)
    shown = []
    for row in rows:
        at = place[row.id]
        own = found.y_N[at]
        guess, share, doubt = None, 0.0, False
        if found.shares_NC is not None:
            shares = found.shares_NC[at]
            if own >= 0 and found.judgement is not None and at in judged:
                shares = found.judgement.shares[judged[at]]  # of a head that did not see it
            guess, share = found.classes[int(shares.argmax())], float(shares.max())
            doubt = bool(named(shares[None], most)[0] == UNSURE)
        shown.append(
            Shown(
                row,
                found.classes[own] if own >= 0 else None,
                row.id in found.standing.labels,
                guess,
                share,
                doubt,
                row.id in found.standing.left_out,
            )
        )
    return shown


def said_of(view: View, found: Found, count: int) -> str:
    """A sentence about the images shown."""
    images = "1 image" if count == 1 else f"{count:,} images"
    if view.what == ASK:
        if not count:
            return (
                "Every image has a label. Choose “Yours alone” above to start from nothing, or look at "
                "“Labels it doubts”."
            )
        if found.head is None or found.labelled < 3 * len(found.classes):
            return "Each stands for a group of images. Click those alike, then press their label's key."
        return "The probe wavers most about these, and they are unlike each other."
    if view.what == DOUBT:
        if not count:
            waiting = found.judgement is None
            return "Being judged …" if waiting else "The probe agrees with every label."
        return f"{images} that a probe which never saw them names differently, the surest first."
    if view.what == MINE:
        return f"{images}, the newest first." if count else "You have labelled none yet."
    if view.what == NAMED:
        return f"{images} without a label that the probe names, the surest first."
    if view.what == UNSURE_ONES:
        return f"{images} without a label that the probe is unsure about."
    if view.what == CHOSEN:
        return f"{images} chosen {view.chosen.said}".strip() + "."
    if view.what == CELL and view.cell is not None and found.judgement is not None:
        true, given = (found.judgement.classes[at] for at in view.cell)
        if true == given:
            return f"{images} of {true}, rightly named."
        return f"{images} of {true} taken for {given}."
    return f"{images}, mixed."
