"""What the Compare tab answers: several encoders on one click, and over all images that they share."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from functools import lru_cache
from typing import Any

from app import cards
from app.desk import Desk, note_of
from app.job import Job
from app.store import VectorStore
from app.tabs.compare import pieces
from app.tabs.compare.matching import Matching, match
from app.tabs.compare.measuring import Compared, compare
from app.tabs.compare.pieces import Found
from app.toolkit import gr
from app.work import Work
from jepack.errors import DataError, JepackError

K = 8  # neighbours in a row
PER_PAGE = 12


class Answers:
    """The tab's handlers over a desk and those beside it; holds no state of a visitor."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.desks = [desk, *desk.beside]
        self.titles = pieces.titles(self.desks)
        self.job: Job[Compared] = Job("Comparing all images", self._compare)
        self._match = lru_cache(maxsize=1)(match)

    def stores(self) -> tuple[VectorStore, ...]:
        """Raises ArtifactError when one has gone."""
        return tuple(desk.library.store for desk in self.desks)

    def matching(self) -> Matching:
        return self._match(self.stores())

    def _compare(self, work: Work) -> Compared:
        return compare(self.stores(), work)

    def begin(self) -> None:
        """Compare all images, unless that is done: on the first look at the tab."""
        try:
            self.job.begin(self.stores())
        except JepackError:  # an index has gone; `shown` says so
            return

    def shown(self) -> str:
        """HTML of what is known of all images."""
        try:
            self.stores()
            found = self.job.found
            table = pieces.facts(self.desks, self.titles, found)
            if found is not None:
                return pieces.verdict(found, self.titles) + table
            if self.job.running:
                return cards.progress(self.job.title, self.job.share) + table
            if self.job.problem:
                return cards.note(f"The comparison failed: {self.job.problem}") + table
            return table
        except Exception as error:
            return note_of(error, "The comparison")

    def browse(self, seed: int) -> tuple[str, str]:
        """Some images that all indexes hold, and how many there are of them."""
        try:
            matching = self.matching()
            told = pieces.matched(matching, self.titles)
            if not matching.names:
                return "", told
            rows, _ = self.desk.library.page(0, PER_PAGE, seed=seed, among=matching.names)
            return cards.browse(rows, self.desk.seen), told
        except Exception as error:
            return "", note_of(error, "Reading the indexes")

    def pick(self, name: str) -> tuple[Any, Any]:
        """A row of neighbours from each encoder: HTML of the query, HTML of the rows."""
        try:
            matching = self.matching()
            if name not in matching.ids[0]:
                raise DataError(f"{name}: is not in each of the indexes. Choose another image")
            row = self.desk.library.store.get([name])[0]
            found = [
                neighbours(title, store, own[name], own, matching.labels)
                for title, store, own in zip(self.titles, self.stores(), matching.ids, strict=True)
            ]
            seen, colours, label = self.desk.seen, self.desk.colours, matching.labels.get(name)
            return (
                pieces.query(row, seen, colours, found),
                pieces.rows(found, label, seen, colours),
            )
        except Exception as error:
            return gr.skip(), note_of(error, "The comparison")


def neighbours(
    title: str, store: VectorStore, name: str, own: dict[str, str], labels: dict[str, str]
) -> Found:
    """The K nearest of the matched images to the image that this index calls `name`.

    `labels` of the first index's ids are told in every row: another index may know none.
    """
    back = {theirs: first for first, theirs in own.items()}
    vector = store.get([name])[0].vector
    assert vector is not None
    count, wanted = store.count(), K + 1  # itself is among them
    started = time.perf_counter()
    if len(own) < count:  # enough that K matched ones are among them, nearly always
        wanted = math.ceil(2 * wanted * count / len(own)) + wanted
    while True:
        [hits] = store.search(
            vector[None], min(wanted, count), fingerprint=store.info.fingerprint, thumbnails=True
        )
        kept = [hit for hit in hits if hit.row.id in back and hit.row.id != name][:K]
        if len(kept) == K or wanted >= count:
            break
        wanted *= 4
    spent = 1000 * (time.perf_counter() - started)
    names = [back[hit.row.id] for hit in kept]
    shown = [
        replace(hit, row=replace(hit.row, label=labels.get(one)))
        for one, hit in zip(names, kept, strict=True)
    ]
    return Found(title, names, shown, spent)
