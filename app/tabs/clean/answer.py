"""What the Clean tab answers: the report of the index, and actions on it that go to the journal alone.

The report belongs to the index and is the same for all visitors; which finding somebody looks at is theirs.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from app import cards
from app.checking.report import Case, Finding, Report
from app.checking.run import check
from app.desk import Desk, note_of
from app.journal import LEAVE_OUT, RELABEL, TAG, now
from app.tabs.clean import pieces
from app.visitor import undo
from app.work import Work
from jepack.errors import ConfigError, JepackError

PER_PAGE = 12  # cases
TAGGED = "to check"  # the word that "Tag" gives


@dataclass(frozen=True)
class View:
    """What a visitor looks at."""

    kind: str = ""  # of the finding; "" is the first that found something
    page: int = 0  # from 0
    said: str = ""  # what the last action did


class Answers:
    """The tab's handlers over one desk."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._lock = threading.Lock()
        self._work: Work | None = None
        self._done: tuple[str, Report] | None = None  # when the index was built, what was found
        self._step = ""

    def start(self) -> None:
        """Check the index, once for all visitors; one that runs goes on."""
        with self._lock:
            if self._work is None or not self._work.running:
                self._work = Work("Checking this index", self._run)

    def stop(self) -> None:
        with self._lock:
            if self._work is not None:
                self._work.cancel()

    def _run(self, work: Work) -> None:
        store = self.desk.library.store

        def tell(what: str, share: float) -> None:
            self._step = what
            work.advance(share)

        report = check(store, self.desk.engine.bundle, tell)
        self._done = (store.info.created, report)

    def running(self) -> bool:
        work = self._work
        return work is not None and work.running

    def report(self) -> Report | None:
        """What was found in the index as it is now; None where it was not looked at."""
        done = self._done
        return (
            done[1]
            if done is not None and done[0] == self.desk.library.store.info.created
            else None
        )

    def checked(self) -> bool:
        """Whether there is a report; never raises."""
        try:
            return self.report() is not None
        except JepackError:  # the index has gone; `show` says so
            return False

    def show(self, view: View) -> tuple[str, str]:
        """(the findings, the cases of one of them) as HTML."""
        try:
            report = self.report()
            if report is None:
                work = self._work
                if work is not None and work.running:
                    return pieces.working(self._step, work.share), ""
                if work is not None and work.problem:
                    return cards.note(f"The check failed: {work.problem}"), ""
                return pieces.welcome(self.desk.library.store.count()), ""
            finding = report.of(view.kind) if view.kind else first(report)
            return pieces.overview(report, finding.kind), self.cases(finding, view)
        except Exception as error:
            return note_of(error, "The check"), ""

    def cases(self, finding: Finding, view: View) -> str:
        """One page of a finding, with what the journal says of its images."""
        pages = max(1, -(-len(finding.cases) // PER_PAGE))
        start = view.page % pages * PER_PAGE
        shown = list(enumerate(finding.cases))[start : start + PER_PAGE]
        store, names = (
            self.desk.library.store,
            {n for _, case in shown for n in case.ids[: pieces.SHOWN]},
        )
        rows = {row.id: row for row in store.get([one for one in sorted(names) if store.has(one)])}
        standing = self.desk.journal.stands()
        return pieces.finding(
            finding, shown, rows, standing, self.desk.seen, self.desk.colours,
            place=(view.page % pages, pages), said=view.said,
        )  # fmt: skip

    def act(self, view: View, told: str, session: str = "") -> View:
        """What a click means: another finding or page, or an action over the images of a case.

        `told`: "show KIND", "page NUMBER", "undo", or "VERB KIND NUMBER" of pieces.VERBS. Every word comes
        from a browser and is looked up in the report; an image is never taken from it. `session`: of who
        clicked. Raises ConfigError.
        """
        verb, *words = told.split(" ")
        report = self.report()
        if report is None:
            return view
        if verb == "show" and words and any(one.kind == words[0] for one in report.findings):
            return View(kind=words[0])
        if verb == "page" and words and words[0].lstrip("-").isdecimal():
            return replace(view, page=int(words[0]), said="")
        if verb == "undo":
            return replace(view, said=undo(self.desk.journal, session)[1])
        return replace(view, said=self.note_down(*chosen(report, verb, words), session))

    def note_down(self, verb: str, finding: Finding, case: Case | None, session: str) -> str:
        """Write to the journal; what was done, in a sentence."""
        store, cases = self.desk.library.store, finding.cases if case is None else (case,)
        if verb == "relabel":
            # An action each label, of one moment: one undo takes back what one click did.
            at = now()
            for label in sorted({one.label for one in cases if one.label}):
                names = [one.ids[0] for one in cases if one.label == label]
                self.desk.journal.add(RELABEL, names, label, session=session, at=at)
            return f"Relabelled: {images([one.ids[0] for one in cases])}."
        names = [name for one in cases for name in (one.extra or one.ids) if store.has(name)]
        if not names:
            raise ConfigError(
                "None of these files is in the index, so there is nothing to note down."
            )
        if verb == "leave":
            self.desk.journal.add(LEAVE_OUT, names, finding.title.lower(), session=session)
            return f"Left out of training: {images(names)}. The files stay as they are."
        self.desk.journal.add(TAG, names, TAGGED, session=session)
        return f"Tagged “{TAGGED}”: {images(names)}."


def first(report: Report) -> Finding:
    """The first finding with something in it; the first of all where nothing was found."""
    return next((one for one in report.findings if one.cases), report.findings[0])


def chosen(report: Report, verb: str, words: list[str]) -> tuple[str, Finding, Case | None]:
    """The finding and the case (None: all of them) that a button stands for. Raises ConfigError."""
    try:
        kind, number = words
        finding = report.of(kind)
        case = None if number == "all" else finding.cases[int(number)]
    except (ValueError, IndexError, StopIteration):
        raise ConfigError(
            "This button belongs to an older check. Look at the findings again."
        ) from None
    if verb not in pieces.VERBS or (verb == "relabel" and kind != "labels"):
        raise ConfigError(f"There is no {verb!r} for {finding.title.lower()}.")
    return verb, finding, case


def images(names: object) -> str:
    count = len(names)  # type: ignore
    return "1 image" if count == 1 else f"{count:,} images"
