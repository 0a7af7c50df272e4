"""What the Probe tab answers: each method gives HTML and the state to keep.

What people label goes to the journal; what is computed of it to the bench. A visitor's own is the `View`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from app import cards
from app.desk import Desk, note_of
from app.journal import LABEL, RELABEL
from app.keeping import write_actions, write_manifest
from app.shell import Selection
from app.tabs.probe import judged, pieces
from app.tabs.probe.bench import Found, Question, bench_of
from app.tabs.probe.keep import keep_probe
from app.tabs.probe.view import (
    ALL,
    ASK,
    CELL,
    DOUBT,
    PER_PAGE,
    View,
    cell_rows,
    free_rows,
    ids_of,
    said_of,
    shown_of,
    with_asked,
)
from app.visitor import undo
from jepack.errors import ConfigError, JepackError
from jepack.probing import UNSURE, named, threshold
from jepack.probing.conformal import needed


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
        self.work = bench_of(desk)

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
            view = with_asked(view, found)
            drawn = (found.standing.version, found.head is None, view.what == DOUBT and running)
            bench = None if again and drawn == view.drawn else self._bench(view, found)
            verdict = self._verdict(view, found, work.share if running else None)
            colours = self._colours(list(found.classes))
            table = judged.confusion(found.judgement, colours) if found.judgement else ""
            return Board(replace(view, drawn=drawn), bench, verdict, table, running)
        except Exception as error:
            return Board(view, note_of(error, "The probe"), "", "", False)

    def tick(self, view: View) -> Board:
        return self.show(view, again=True)

    def put(self, view: View, ids: list[str], label: str, session: str = "") -> Board:
        """One label for images; "" takes one away. `session`: who gives it."""

        def act() -> View:
            if not ids:
                raise ConfigError("Choose images first: click them, then press a label's key.")
            folders = dict(self.desk.library.catalogue)
            kind = RELABEL if label and any(folders.get(name) for name in ids) else LABEL
            self.desk.journal.add(kind, ids, label, session=session)
            return replace(view, note="")

        return self._acted(view, act)

    def undo(self, view: View, session: str = "") -> Board:
        def act() -> View:
            done, said = undo(self.desk.journal, session)
            if not done:
                raise ConfigError(said)
            return replace(view, note=cards.note(said, "done"))

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

    def put_on_chosen(self, view: View, label: str, session: str = "") -> Board:
        """One label for everything that was chosen in another tab."""
        return self.put(view, list(view.chosen.ids), " ".join(label.split()), session)

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
        place = keep_probe(self.desk, name.strip(), found, view.question, view.rate)
        return cards.note(
            f"{place}: kept, with its figures, in the bundle's manifest. Serve it beside the encoder:\n"
            f"jepack serve {place.parents[1]} --probe {place.stem}",
            "done",
        )

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

    def _bench(self, view: View, found: Found) -> str:
        every = ids_of(view, found)
        pages = max(1, -(-len(every) // PER_PAGE))
        page = view.page % pages
        rows = self.desk.library.store.get(every[page * PER_PAGE : (page + 1) * PER_PAGE])
        labels = self.labels(view, found)
        told = f"{page + 1:,} of {pages:,}" if pages > 1 else ""
        html = pieces.bench(
            shown_of(rows, view, found), labels, view.choices, view.what, told,
            said_of(view, found, len(every)), self._colours(labels), self.desk.seen,
        )  # fmt: skip
        return view.note + html

    def labels(self, view: View, found: Found) -> list[str]:
        """Typed ones last and as they were typed, so that a key keeps its label when an image has got it."""
        return [*(name for name in found.classes if name not in view.more), *view.more]

    def _colours(self, labels: list[str]) -> dict[str, str]:
        """Those of the folders as in all tabs, new ones after them."""
        known = self.desk.colours
        return cards.colours_of([*known, *(label for label in labels if label not in known)])

    def _verdict(self, view: View, found: Found, share: float | None) -> str:
        waiting = "" if share is None else judged.working(share)
        if found.head is None:
            have = len(found.classes)
            return pieces.empty(
                "Label images of two classes at least",
                "The verdict appears here with the third label or so. "
                + (f"So far there is one class: {found.classes[0]}." if have else ""),
            )
        known = found.judgement
        free = free_rows(found)
        assert found.shares_NC is not None
        given = named(found.shares_NC[free], threshold(found.scores, view.rate))
        sure = int((given != UNSURE).sum())
        promise = judged.unsure(
            sure, len(free) - sure, view.rate, needed(view.rate), len(found.scores)
        )
        if known is None:
            if share is None:
                return pieces.empty(
                    "Two images of each class are needed to judge",
                    "One is learnt from, the other asked. Where images are kept together, of two groups.",
                )
            return waiting + (promise if len(free) else "")
        return (
            waiting
            + judged.verdict(known, view.question.group, found.unjudged)
            + (promise if len(free) else "")
            + ("" if share and not known.curve else judged.curve(known.curve, known.gain))
        )
