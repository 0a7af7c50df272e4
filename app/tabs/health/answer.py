"""What the Health tab answers. What is measured is the index's; what a visitor brings stays theirs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from app import cards
from app.desk import Desk, note_of
from app.indexing import fingerprint_of
from app.job import Job
from app.tabs.health import pieces, verdict, watching
from app.tabs.health.measuring import Measured, measure
from app.tabs.health.occlusion import Occlusion, occlude
from app.tabs.health.watching import Brought
from app.toolkit import Upload
from app.work import Work
from jepack.commands import drift_live
from jepack.errors import DataError, JepackError

SOME = 12  # images to choose from


class Answers:
    """The tab's handlers over one desk; holds no state of a visitor."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.job: Job[Measured | str] = Job("Measuring the index's vectors", self._measure)

    def _measure(self, work: Work) -> Measured | str:
        found = measure(self.desk.library.store, work)
        return "Too few images: the vectors are measured from 20 on." if found is None else found

    def begin(self) -> None:
        """Measure, unless that is done: on the first look at the tab, not with every page."""
        try:
            self.job.begin(self.desk.library.store)
        except JepackError:  # the index has gone; `shown` says so
            return

    def shown(self) -> tuple[str, str]:
        """HTML of the verdict, HTML of the pictures."""
        try:
            _ = self.desk.library.store  # raises when the index has gone
            found = self.job.found
            measured = found if isinstance(found, Measured) else None
            told = verdict.sentences(self.desk, measured)
            return pieces.verdict(*verdict.headline(told), told), self._pictures(found)
        except Exception as error:
            return note_of(error, "Reading the encoder's health"), ""

    def _pictures(self, found: Measured | str | None) -> str:
        if isinstance(found, Measured):
            info = self.desk.library.info
            return pieces.measured(found, info.output, self.desk.seen)
        if isinstance(found, str):
            return pieces.told(found)
        if self.job.running:
            return cards.progress(self.job.title, self.job.share)
        if self.job.problem:
            return cards.note(f"The measuring failed: {self.job.problem}")
        return pieces.empty(
            "Nothing is measured yet. “Measure” looks at up to 2,000 images of the index: it takes seconds."
        )

    def watch(self, brought: Brought | None) -> str:
        """What the endpoint says of drift, or how this visitor's images compare, as HTML."""
        engine = self.desk.engine
        try:
            told = ""
            if watching.is_gateway(engine.place):
                told = "".join(map(pieces.gateway, drift_live.ask(engine.place, None)))
            if engine.null is None:
                return told or pieces.empty(no_null(self.desk))
            if brought is None or not (brought.projections or brought.refused):
                return told or pieces.empty(
                    "Drop images of today above, as many as you have: the page says whether they are "
                    "still like those the encoder was judged by. The files are deleted when they are "
                    "read; what the encoder says of them is kept until you leave the page."
                )
            return told + self._of(brought)
        except Exception as error:
            return note_of(error, "Asking for drift")

    def _of(self, brought: Brought) -> str:
        assert self.desk.engine.null is not None
        refused = pieces.refused(brought.refused)
        if not brought.projections:
            return refused
        found = watching.of_images(self.desk.engine.null, watching.stacked(brought))
        return pieces.drift(*found) + refused

    def bring(self, files: Sequence[Upload] | None, brought: Brought | None) -> tuple[str, Any]:
        """A visitor's images are embedded and deleted: HTML, and what is kept of them."""
        before = brought or Brought()
        try:
            after = self._embedded(take(files), before)
        except Exception as error:
            return note_of(error, "Embedding these images"), before
        return self.watch(after), after

    def _embedded(self, images: dict[str, bytes], before: Brought) -> Brought:
        if not images:
            raise DataError("No file arrived. Drop them again.")
        engine = self.desk.engine
        if engine.null is None or engine.bundle is None:
            raise DataError(no_null(self.desk))
        with closing(engine.connect()) as embedder:
            found = embedder.embed(list(images.values()), skip_bad=True)
        own = fingerprint_of(found.fingerprints, "projection", engine.place)
        if own != engine.bundle.fingerprints["projection"]:
            raise DataError(
                f"{engine.place} serves another encoder ({own}) than {engine.bundle.folder}, whose null "
                f"would judge its images. Serve that one: jepack serve {engine.bundle.folder}"
            )
        rows = np.asarray(found.projection, np.float64)
        names = list(images)
        good = rows[[at for at in range(len(rows)) if at not in found.errors]]
        refused = {names[at]: reason for at, reason in found.errors.items()}
        kept = (*before.projections, good) if len(good) else before.projections
        return Brought(kept, own, refused)

    def gallery(self, seed: int) -> str:
        """Some images to choose from; "" where parts of them cannot be covered."""
        if self.desk.engine.bundle is None or self.desk.engine.remote:
            return ""
        try:
            rows, _ = self.desk.library.page(0, SOME, seed=seed)
            return cards.browse(rows, self.desk.seen)
        except Exception as error:
            return note_of(error, "Reading the index")

    def cover(self, name: str) -> Iterator[str]:
        """Progress, and then what the likeness of an image to its nearest rests on, as HTML."""
        try:
            for found in occlude(self.desk, name):
                if isinstance(found, Occlusion):
                    yield pieces.occlusion(found, self.desk.library.scale, self.desk.seen)
                else:
                    yield cards.progress("Covering one part after the other", found)
        except Exception as error:
            yield note_of(error, "Covering parts of the image")


def take(files: Sequence[Upload] | None) -> dict[str, bytes]:
    """{name: bytes} of the uploaded files, which are then gone."""
    found: dict[str, bytes] = {}
    for number, file in enumerate(files or ()):
        name = file.name if file.name not in found else f"{file.name} ({number + 1})"
        found[name] = file.path.read_bytes()
        file.path.unlink()
    return found


def no_null(desk: Desk) -> str:
    bundle = desk.engine.bundle
    if bundle is None:
        return (
            "Whether images drift is judged by the null in the encoder's bundle, which is not at hand. "
            f"Open the page with it: jepack app {desk.library.folder} --bundle BUNDLE"
        )
    return (
        "Whether images drift cannot be told: the bundle holds no null, which 64 or more held-out images "
        f"give. Make it: jepack export {bundle.folder} --data IMAGES"
    )
