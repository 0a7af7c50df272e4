"""What the Probe tab computes in the background: a head and its judgement, one for each question.

What is computed belongs to the index and its journal, not to a visitor: two who ask the same share it.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
from PIL import Image

from app.desk import Desk
from app.journal import Standing
from app.store import VectorStore
from app.work import Work
from jepack.errors import JepackError
from jepack.probing import Fitted, Head, Judgement, fit_some, judge, standard_of, usable
from jepack.probing.heads import Floats, Ints, Standard
from jepack.sources import ImageFile, find_images

MOST_FITTED = 10_000  # labelled images that a head is fitted on
MOST_JUDGED = 3000  # that it is judged by
SIDE = 24  # px of the thumbnails that the random encoder sees
KEPT = 6  # answers kept at once
FILE = "file"  # the group of a part of a file that holds many
_benches: WeakKeyDictionary[Desk, Bench] = WeakKeyDictionary()
_making = threading.Lock()


@dataclass(frozen=True)
class Question:
    """What a visitor wants to know."""

    mine: bool  # by what people said alone, without the labels of the folders
    group: str  # column whose images are never on both sides; "" for none


@dataclass(frozen=True)
class Found:
    """What is known for a question so far; `ids` and what follows are of all N images, in stored order."""

    ids: list[str] = field(repr=False)
    x_ND: Floats = field(repr=False)
    standard: Standard | None = field(repr=False)  # of x_ND
    classes: tuple[str, ...]
    y_N: Ints = field(repr=False)  # into `classes`, -1 without a label
    standing: Standing = field(repr=False)
    fitted: Fitted | None = field(default=None, repr=False)
    shares_NC: Floats | None = field(default=None, repr=False)
    judgement: Judgement | None = None
    rows: Ints = field(
        default_factory=lambda: np.zeros(0, np.int64), repr=False
    )  # that were judged
    unjudged: tuple[str, ...] = ()  # classes seen once

    @property
    def head(self) -> Head | None:
        return None if self.fitted is None else self.fitted.head

    @property
    def scores(self) -> Floats:
        """Of the labelled images that were held back, see conformal."""
        return np.zeros(0, np.float32) if self.fitted is None else self.fitted.scores

    @property
    def labelled(self) -> int:
        return int((self.y_N >= 0).sum())


def bench_of(desk: Desk) -> Bench:
    """The one bench of a desk: the tab's handlers and the map's colours are made apart."""
    with _making:
        if desk not in _benches:
            _benches[desk] = Bench(desk)
        return _benches[desk]


class Bench:
    """Works on the questions of all visitors of a page."""

    def __init__(self, desk: Desk) -> None:
        # Not the desk itself: a bench must not keep alive what it is found by.
        self.library, self.engine, self.journal = desk.library, desk.engine, desk.journal
        self._lock = threading.Lock()
        self._turn = threading.Lock()  # one work at a time
        self._of: VectorStore | None = None
        self._ids: list[str] = []
        self._folders: list[str | None] = []
        self._x = np.zeros((0, 0), np.float32)
        self._standard: Standard | None = None
        self._works: dict[tuple[object, ...], Work] = {}
        self._found: dict[tuple[object, ...], Found] = {}
        self._images: list[ImageFile] | None = None
        self._random: dict[str, Floats] = {}

    def look(self, question: Question) -> tuple[Found | None, Work]:
        """What is known, and the work on what is not; starts it where it was not asked for before.

        Raises JepackError where the index or the journal cannot be read.
        """
        standing = self.journal.stands()
        store = self.library.store
        with self._lock:
            key = (id(store), standing.version, question)
            if key not in self._works:
                for old, work in list(self._works.items()):
                    if old[:2] != key[:2]:  # labels have changed since
                        work.cancel()
                for old in list(self._works)[: -KEPT + 1]:
                    self._works.pop(old).cancel()
                    self._found.pop(old, None)
                self._works[key] = Work(
                    "Probing", lambda work: self._run(work, key, store, standing, question)
                )
            return self._found.get(key), self._works[key]

    def newest(self) -> Found | None:
        """What was computed last of the labels as they are; None where no head was. Nothing is begun."""
        standing, store = self.journal.stands(), self.library.store
        with self._lock:
            for key, found in reversed(self._found.items()):
                if key[:2] == (id(store), standing.version) and found.head is not None:
                    return found
        return None

    def images(self) -> list[ImageFile]:
        """The images of the data folder with the columns of its manifest; [] where it is not there."""
        with self._lock:
            if self._images is None:
                self._images = []
                with suppress(JepackError, OSError):
                    self._images = find_images(self.library.info.data, parts=True)
            return self._images

    def columns(self) -> list[str]:
        """Columns that group images: at least two values, and half as many as images at most."""
        values: dict[str, set[str]] = {}
        images = self.images()
        for image in images:
            for name, value in image.columns.items():
                values.setdefault(name, set()).add(value)
        found = [
            name for name, own in sorted(values.items()) if 2 <= len(own) <= max(2, len(images) / 2)
        ]
        return found + ([FILE] if any(image.part for image in images) else [])

    def trained_by(self) -> str:
        """The column that the bundle's training kept together, where the images have it; else ""."""
        bundle = self.engine.bundle
        recipe = None if bundle is None else bundle.folder / "recipe.json"
        if recipe is None or not recipe.is_file():
            return ""
        found = json.loads(recipe.read_text()).get("group_by")
        return found if found in self.columns() else ""

    def _run(
        self, work: Work, key: tuple[object, ...], store: VectorStore, standing: Standing,
        question: Question,
    ) -> None:  # fmt: skip
        with self._turn:
            work.advance(0.0)
            self._load(store)
            found = self._labels(standing, question)
            groups = self._groups(question.group)

            def tell(found: Found) -> None:
                with self._lock:
                    self._found.pop(key, None)
                    self._found[key] = found  # at the end: the newest

            if len(found.classes) >= 2:
                found = with_head(found, groups)
                tell(found)
                self._judge(work, found, groups, tell)
            else:
                tell(found)

    def _load(self, store: VectorStore) -> None:
        if store is self._of:
            return
        ids, folders, parts = list[str](), list[str | None](), list[Floats]()
        for some, labels, rows in store.vectors():
            ids += some
            folders += labels
            parts.append(np.array(rows, np.float32))
        self._ids, self._folders = ids, folders
        self._x = np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)
        self._standard = standard_of(self._x) if parts else None
        self._of, self._random = store, {}

    def _labels(self, standing: Standing, question: Question) -> Found:
        folders: Sequence[str | None] = [None] * len(self._ids) if question.mine else self._folders
        labels = [
            None if name in standing.left_out else standing.label(name, folder)
            for name, folder in zip(self._ids, folders, strict=True)
        ]
        classes = tuple(sorted({label for label in labels if label}))
        place = {label: at for at, label in enumerate(classes)}
        y = np.array([place.get(label or "", -1) for label in labels], np.int64)
        return Found(self._ids, self._x, self._standard, classes, y, standing)

    def _groups(self, column: str) -> Ints | None:
        """A number per image; None where every image stands for itself."""
        if not column:
            return None
        base = Path(self.library.info.data)
        of = {
            image.name_below(base): str(image.path) if column == FILE else image.columns.get(column)
            for image in self.images()
        }
        names = [of.get(name) or f"\0{name}" for name in self._ids]
        return np.unique(names, return_inverse=True)[1].astype(np.int64)

    def _judge(self, work: Work, found: Found, groups: Ints | None, tell: object) -> None:
        rows = some(np.flatnonzero(found.y_N >= 0), MOST_JUDGED)
        rows = rows[usable(found.y_N[rows], None if groups is None else groups[rows])]
        y, own = found.y_N[rows], None if groups is None else groups[rows]
        seen = set(y.tolist())
        unjudged = tuple(name for at, name in enumerate(found.classes) if at not in seen)
        if len(seen) < 2:
            tell(replace(found, unjudged=unjudged))  # type: ignore[operator]
            return
        judge(
            found.x_ND[rows], y, found.classes, own,
            random_ND=self._random_vectors([found.ids[row] for row in rows]),
            standard=found.standard,
            told=lambda judgement: tell(  # type: ignore[operator]
                replace(found, judgement=judgement, rows=rows, unjudged=unjudged)
            ),
            advance=work.advance,
        )  # fmt: skip

    def _random_vectors(self, ids: list[str]) -> Floats:
        """Thumbnails at 24 px, through one random matrix to as many numbers as the encoder gives, [n, D]."""
        assert self._of is not None
        missing = [name for name in ids if name not in self._random]
        for start in range(0, len(missing), 500):
            for row in self._of.get(missing[start : start + 500]):
                self._random[row.id] = pixels_of(row.thumbnail)
        pixels = np.stack([self._random[name] for name in ids])
        width = self._x.shape[1]
        matrix = np.random.default_rng(0).normal(size=(pixels.shape[1], width))
        return np.asarray(pixels @ matrix.astype(np.float32) / pixels.shape[1] ** 0.5, np.float32)


def with_head(found: Found, groups: Ints | None) -> Found:
    """Fitted on the labels, a quarter of them held back where they suffice for the word "unsure"."""
    rows = some(np.flatnonzero(found.y_N >= 0), MOST_FITTED)
    own = None if groups is None else groups[rows]
    fitted = fit_some(
        found.x_ND[rows], found.y_N[rows], found.classes, own, standard=found.standard
    )
    return replace(found, fitted=fitted, shares_NC=fitted.head.probabilities(found.x_ND))


def some(rows: Ints, most: int) -> Ints:
    """At most so many of them, by lot but always the same."""
    return np.sort(np.random.default_rng(0).permutation(rows)[:most])


def pixels_of(thumbnail: bytes) -> Floats:
    with Image.open(io.BytesIO(thumbnail)) as image:
        small = image.convert("RGB").resize((SIDE, SIDE))
    return np.asarray(small, np.float32).reshape(-1) / np.float32(255)
