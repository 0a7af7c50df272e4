"""What the Probe tab answers: each method gives HTML and the state to keep.

What people label goes to the journal; what is computed of it to the bench. A visitor's own is the `View`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from app import cards
from app.desk import Desk, note_of
from app.journal import LABEL, RELABEL
from app.keeping import write_actions, write_manifest
from app.probing import UNSURE, ask, named, threshold
from app.probing.conformal import needed
from app.probing.heads import Ints
from app.shell import Selection
from app.tabs.probe import pieces
from app.tabs.probe.bench import Bench, Found, Question
from app.tabs.probe.keep import keep_probe
from jepack.errors import ConfigError, JepackError

PER_PAGE = 12
ASK, DOUBT, ALL, MINE, NAMED, UNSURE_ONES, CHOSEN, CELL = (
    "ask", "doubt", "all", "mine", "named", "unsure", "chosen", "cell",
)  # fmt: skip
VIEWS = {
    ASK: "Ask me next",
    ALL: "All",
    MINE: "Labelled by you",
    NAMED: "Named by the probe",
    UNSURE_ONES: "Unsure",
    DOUBT: "Labels it doubts",
}
RATES = (0.01, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class View:
    """What one visitor looks at."""

    question: Question
    rate: float = 0.1
    what: str = ASK
    page: int = 0
    asked: tuple[str, ...] = ()  # the images shown to be labelled; they stay while labels are given
    cell: tuple[int, int] | None = None
    chosen: Selection = field(default_factory=Selection)
    more: tuple[str, ...] = ()  # labels that were typed and not used yet
    note: str = ""  # HTML about the last action
    opened: bool = False  # nothing is computed for a tab that nobody has opened
    drawn: tuple[object, ...] = ()  # what the images were drawn from


@dataclass(frozen=True)
class Board:
    """All that the tab shows, and whether there is more to come."""

    view: View
    bench: str | None  # None: as it is
    verdict: str | None
    table: str | None  # of mix-ups
    working: bool


class Answers:
    """The tab's handlers over one desk; holds no state of a visitor."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.work = Bench(desk)

    def first(self) -> View:
        """From nothing where the folders say nothing; nobody is asked where they say everything."""
        labels = self.desk.library.labels()
        whole = sum(labels.values()) == len(self.desk.library.catalogue)
        mine = len(labels) < 2
        return View(Question(mine, ""), what=ALL if whole and not mine else ASK)

    def show(self, view: View, *, again: bool = False) -> Board:
        """Everything, as far as it is known; `again`: the images only where more is known of them."""
        try:
            found, work = self.work.look(view.question)
            if found is None and work.running:
                work.wait(0.4)  # of few labels it is there at once
                found, work = self.work.look(view.question)
            running = work.running
            if work.problem is not None:
                raise JepackError(f"Probing failed: {work.problem}")
            if found is None:
                bench = None if again else view.note + pieces.empty("Reading the vectors …")
                nothing = None if again else ""
                return Board(view, bench, nothing, nothing, True)
            view = self._asked(view, found)
            drawn = (found.standing.version, found.head is None, view.what == DOUBT and running)
            bench = None if again and drawn == view.drawn else self._bench(view, found)
            verdict = self._verdict(view, found, work.share if running else None)
            colours = self._colours(list(found.classes))
            table = pieces.confusion(found.judgement, colours) if found.judgement else ""
            return Board(replace(view, drawn=drawn), bench, verdict, table, running)
        except Exception as error:
            return Board(view, note_of(error, "The probe"), "", "", False)

    def tick(self, view: View) -> Board:
        return self.show(view, again=True)

    def put(self, view: View, ids: list[str], label: str) -> Board:
        """One label for images; "" takes one away."""

        def act() -> View:
            if not ids:
                raise ConfigError("Choose images first: click them, then press a label's key.")
            folders = dict(self.desk.library.catalogue)
            kind = RELABEL if label and any(folders.get(name) for name in ids) else LABEL
            self.desk.journal.add(kind, ids, label)
            return replace(view, note="")

        return self._acted(view, act)

    def undo(self, view: View) -> Board:
        def act() -> View:
            undone = self.desk.journal.undo()
            if undone is None:
                raise ConfigError("There is nothing to undo.")
            images = "1 image" if len(undone.images) == 1 else f"{len(undone.images):,} images"
            word = f" “{undone.value}”" if undone.value else ""
            return replace(view, note=cards.note(f"Undone: {undone.kind}{word}, {images}.", "done"))

        return self._acted(view, act)

    def add(self, view: View, label: str) -> Board:
        """A label to give; it is kept once an image has it."""

        def act() -> View:
            word = " ".join(label.split())
            if not word:
                raise ConfigError("Type a label first, such as “crack”.")
            more = view.more if word in view.more else (*view.more, word)
            return replace(view, more=more, note="")

        return self._acted(view, act)

    def put_on_chosen(self, view: View, label: str) -> Board:
        """One label for everything that was chosen in another tab."""
        return self.put(view, list(view.chosen.ids), " ".join(label.split()))

    def cell(self, view: View, place: str) -> tuple[Board, Selection | None]:
        """The images of one cell of the table, here and as the selection of all tabs."""
        true, given = map(int, place.split("-"))
        board = self.show(replace(view, what=CELL, cell=(true, given), page=0, note=""))
        found, _ = self.work.look(view.question)
        if found is None or found.judgement is None:
            return board, None
        ids = tuple(found.ids[row] for row in cell_rows(found, (true, given)))
        names = found.judgement.classes
        return board, Selection(ids, f"{names[true]} taken for {names[given]}")

    def write(self, view: View) -> str:
        """The labels as files beside the index."""
        library, standing = self.desk.library, self.desk.journal.stands()
        catalogue = library.catalogue
        if view.question.mine:
            catalogue = [(name, None) for name, _ in catalogue if name in standing.labels]
        if not standing.labels and view.question.mine:
            raise ConfigError("No label was given yet. Label some images first.")
        folder = library.folder.absolute()
        path = folder.with_name(folder.name + ".labels.csv")
        rows = write_manifest(
            path, catalogue, standing, Path(library.info.data), self.work.images()
        )
        log = folder.with_name(folder.name + ".actions.csv")
        actions = self.desk.journal.actions()
        write_actions(log, actions)
        write_actions(log.with_suffix(".parquet"), actions)
        return cards.note(
            f"{path}: {rows:,} images with the labels that hold. Train, probe or index with it:\n"
            f"jepack train {path}\nWho said what and when: {log} and .parquet",
            "done",
        )

    def keep(self, view: View, name: str) -> str:
        """The probe into the bundle."""
        found, work = self.work.look(view.question)
        if found is None or found.head is None or found.judgement is None or work.running:
            raise ConfigError("The probe is not judged yet. Wait for the verdict, then keep it.")
        most = threshold(found.scores, view.rate)
        place = keep_probe(self.desk, name.strip(), found, view.question, view.rate, most)
        return cards.note(f"{place}: kept, with its figures, in the bundle's manifest.", "done")

    def noted(self, work: Callable[[], str], what: str) -> str:
        try:
            return work()
        except Exception as error:
            return note_of(error, what)

    def _acted(self, view: View, act: Callable[[], View]) -> Board:
        try:
            return self.show(act())
        except Exception as error:
            return self.show(replace(view, note=note_of(error, "Labelling")))

    def _asked(self, view: View, found: Found) -> View:
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
        rows = ask(
            found.x_ND[free], shares, PER_PAGE, labelled=found.labelled, seed=found.labelled
        )  # fmt: skip
        return replace(view, asked=tuple(found.ids[row] for row in free[rows]))

    def _rows(self, view: View, found: Found) -> list[str]:
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

    def _bench(self, view: View, found: Found) -> str:
        every = self._rows(view, found)
        pages = max(1, -(-len(every) // PER_PAGE))
        page = view.page % pages
        part = every[page * PER_PAGE : (page + 1) * PER_PAGE]
        rows = self.desk.library.store.get(part)
        place = {name: at for at, name in enumerate(found.ids)} if part else {}
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
                pieces.Shown(
                    row,
                    found.classes[own] if own >= 0 else None,
                    row.id in found.standing.labels,
                    guess,
                    share,
                    doubt,
                    row.id in found.standing.left_out,
                )
            )
        choices = list(VIEWS.items())
        if view.chosen.ids:
            choices.append((CHOSEN, f"Chosen ({len(view.chosen.ids):,})"))
        if view.what == CELL:
            choices.append((CELL, "From the table"))
        labels = self.labels(view, found)
        told = f"{page + 1:,} of {pages:,}" if pages > 1 else ""
        html = pieces.bench(
            shown, labels, choices, view.what, told, said_of(view, found, len(every)),
            self._colours(labels), self.desk.seen,
        )  # fmt: skip
        return view.note + html

    def labels(self, view: View, found: Found) -> list[str]:
        return [*found.classes, *(word for word in view.more if word not in found.classes)]

    def _colours(self, labels: list[str]) -> dict[str, str]:
        """Those of the folders as in all tabs, new ones after them."""
        known = self.desk.colours
        return cards.colours_of([*known, *(label for label in labels if label not in known)])

    def _verdict(self, view: View, found: Found, share: float | None) -> str:
        waiting = "" if share is None else pieces.working(share)
        if found.head is None:
            have = len(found.classes)
            return pieces.empty(
                "Label images of two classes at least",
                "The verdict appears here with the third label or so. "
                + (f"So far there is one class: {found.classes[0]}." if have else ""),
            )
        judged = found.judgement
        free = free_rows(found)
        assert found.shares_NC is not None
        given = named(found.shares_NC[free], threshold(found.scores, view.rate))
        sure = int((given != UNSURE).sum())
        promise = pieces.unsure(
            sure, len(free) - sure, view.rate, needed(view.rate), len(found.scores)
        )
        if judged is None:
            if share is None:
                return pieces.empty(
                    "Two images of each class are needed to judge",
                    "One is learnt from, the other asked. Where images are kept together, of two groups.",
                )
            return waiting + (promise if len(free) else "")
        return (
            waiting
            + pieces.verdict(judged, view.question.group, found.unjudged)
            + (promise if len(free) else "")
            + ("" if share and not judged.curve else pieces.curve(judged.curve, judged.gain))
        )


def free_rows(found: Found) -> Ints:
    """Images that nobody has labelled, nor left out."""
    out = found.standing.left_out
    free = np.flatnonzero(found.y_N < 0)
    return np.array([row for row in free if found.ids[row] not in out], np.int64) if out else free


def cell_rows(found: Found, cell: tuple[int, int]) -> Ints:
    assert found.judgement is not None
    true, given = cell
    rows = found.rows
    kept = (found.y_N[rows] == true) & (found.judgement.answers == given)
    return np.asarray(rows[kept], np.int64)


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
