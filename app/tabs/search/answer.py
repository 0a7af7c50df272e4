"""What the Search tab answers: each method gives HTML and the state to keep.

Whatever goes wrong becomes a note in the place of the results; the page lives on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

import numpy as np

from app import cards
from app.belonging import Belonging, judge
from app.desk import Desk, note_of
from app.kept_probes import said_of
from app.originals import cut, full_size, read_original
from app.search import by_image
from app.shell import Selection
from app.store import Condition, Hit, Row
from app.tabs.search import pieces, results
from app.tabs.search.question import LABEL, Example, Question, direction, parse
from app.tabs.search.visit import Known, Own, Query, Visit
from app.thumbnail import make_thumbnail
from app.tiles import by_tiles
from app.toolkit import Upload, gr
from jepack.errors import DataError

PER_PAGE = 24
K, MOST = 10, 50  # neighbours at first, and at most
BROUGHT = 1024  # px, longer side of what is kept of an own image to look at

# HTML of the query, HTML of the results, the Visit, the Query (None: no search)
Shown = tuple[Any, Any, Any, Any]


class Answers:
    """The tab's handlers over one desk; holds no state of a visitor."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def nothing(self) -> Shown:
        """All stays as it is."""
        return gr.skip(), gr.skip(), gr.skip(), gr.skip()

    def ask(self, address: str, k: int, visit: Visit) -> Shown:
        """What the page's address asks."""
        try:
            question = parse(address)
        except DataError as error:
            return self._told(error, visit)
        if not question.examples:
            return "", pieces.welcome(), replace(visit, question=None, known=()), None
        question = replace(question, k=min(MOST, max(1, question.k or int(k))))
        return self._show(lambda: (question, visit), visit, address=address)

    def look(self, name: str, k: int, visit: Visit) -> Shown:
        """Neighbours of an indexed image that another tab asks for."""
        question = Question((Example(name),), k=int(k))
        return self._show(lambda: (question, visit), visit, new=True)

    def upload(self, files: Sequence[Upload] | None, k: int, visit: Visit) -> Shown:
        """Neighbours of a new image, embedded through the engine; the uploaded file is deleted."""

        def bring() -> tuple[Question, Visit]:
            data, name = take_file(files)
            example = Example(f"{visit.brought + 1}/{name}", own=True)
            try:
                row = Row(id=example.name, thumbnail=make_thumbnail(data))
                full = full_size(data, largest=BROUGHT)
            except DataError as error:
                raise DataError(f"{name}: {error}") from error
            own = Own(self._embedded(example, row, data), data, full)
            return Question((example,), k=int(k)), visit.with_own(example.name, own)

        return self._show(bring, visit, new=True)

    def resize(self, k: int, visit: Visit) -> Shown:
        """The same question with another k."""
        question = visit.question
        if question is None or question.k == int(k):
            return self.nothing()
        return self._show(
            lambda: (replace(question, k=int(k)), visit), visit, address=question.address
        )

    def browse(
        self, number: int, label: str | None, called: str, seed: int, chosen: Selection
    ) -> tuple[str, int, str, int, int]:
        """A page of the gallery: its HTML, its number from 1, "of 132", its number from 0, the seed."""
        try:
            rows, pages = self.desk.library.page(
                number,
                PER_PAGE,
                label=label or "",
                seed=seed,
                among=chosen.ids,
                called=called or "",
            )
        except Exception as error:
            return note_of(error, "Reading the index"), number + 1, "", number, seed
        number %= pages
        return pieces.gallery(rows, self.desk.seen), number + 1, f"of {pages:,}", number, seed

    def _told(self, error: Exception, visit: Visit) -> Shown:
        return "", note_of(error, "The search"), replace(visit, question=None, known=()), None

    def _show(
        self,
        asked: Callable[[], tuple[Question, Visit]],
        visit: Visit,
        *,
        address: str = "",
        new: bool = False,
    ) -> Shown:
        """`new`: the page's address does not say the question yet; else `address` is what it said."""
        try:
            question, visit = asked()
            known = tuple(self._known(one, visit) for one in question.examples)
            query = query_of(question, known)
            hits, belonging, squares = self._found(question, known, query, visit)
        except Exception as error:
            return self._told(error, visit)
        visit = visit.answered(question, known)
        look = results.Look(self.desk.library.scale, self.desk.seen, self.desk.colours)
        said = []
        if len(known) == 1:
            said = said_of(self.desk, {query.fingerprint: query.vector, **known[0].spaces})
        strip = pieces.strip(
            visit, hits, belonging, look, self.desk.library, address, said, new=new
        )
        return strip, results.neighbours(hits, look, question, squares), visit, query

    def _known(self, example: Example, visit: Visit) -> Known:
        """An example's vector: stored, brought, or of a part that is cut out and embedded now."""
        store, own = self.desk.library.store, visit.own.get(example.name)
        if example.own and own is None:
            name = example.name.partition("/")[2] or example.name
            raise DataError(
                f"{name} was an image of your own. Those are not kept: drop it here again."
            )
        if example.box is None:
            if own is not None and example.own:
                return own.known
            row = store.get([example.name])[0]
            assert row.vector is not None
            return Known(example, row, row.vector, store.info.fingerprint)
        again = next((one for one in visit.known if one.example == example), None)
        if again is not None:
            return again
        data, row = self._original(example, visit)
        channels = self._channels()
        with closing(self.desk.engine.connect()) as embedder:
            window = embedder.endpoint().window
        part = cut(data, example.box, channels, window)
        return self._embedded(example, replace(row, thumbnail=make_thumbnail(part, window)), part)

    def _original(self, example: Example, visit: Visit) -> tuple[bytes, Row]:
        """The file of an example, whole."""
        own = visit.own.get(example.name)
        if own is None or not example.own:
            store = self.desk.library.store
            return read_original(store.info, example.name), store.get([example.name])[0]
        if not own.data:
            name = cards.file_name(own.known.row)
            raise DataError(f"{name} is no longer at hand: drop it here again.")
        return own.data, own.known.row

    def _channels(self) -> int:
        bundle = self.desk.engine.bundle
        return 3 if bundle is None else bundle.preprocessing.channels

    def _embedded(self, example: Example, row: Row, data: bytes) -> Known:
        store = self.desk.library.store
        with closing(self.desk.engine.connect()) as embedder:
            found = by_image(store, data, embedder, 1)
        strange = self.desk.engine.atypicality(found.projection)
        return Known(example, row, found.vector, store.info.fingerprint, strange, found.spaces)

    def _found(
        self, question: Question, known: Sequence[Known], query: Query, visit: Visit
    ) -> tuple[list[Hit], Belonging | None, results.Squares | None]:
        """The neighbours, for one image alone how much it belongs, and where squares asked which of them."""
        library, k = self.desk.library, question.k or K
        store = library.store
        # A part is not its whole: that may well be the nearest.
        asked = {one.name for one in question.examples if not one.own and one.box is None}
        only = tuple(meant(one, known[0].row) for one in question.only)

        spaces = {one.fingerprint for one in known} - {store.info.fingerprint}
        space = next(iter(spaces), store.info.fingerprint)  # another one's is refused

        def nearest(count: int, only: Sequence[Condition]) -> list[Hit]:
            # Copies of an image lie at distance 0 too, so it may stand anywhere among them.
            [hits] = store.search(
                query.vector[None],
                count + len(asked),
                fingerprint=space,
                thumbnails=True,
                only=only,
            )
            return [hit for hit in hits if hit.row.id not in asked][:count]

        squares, strange = None, known[0].atypicality
        if question.by_squares:
            hits, squares, strange = self._by_squares(known[0].example, k, only, visit)
        else:
            hits = nearest(k, only)
        if len(known) > 1:
            return hits, None, None
        [one] = known
        cropped = not squares and cards.unseen(one.row, self.desk.seen) > cards.MOST_UNSEEN
        all_of_them = nearest(1, ()) if only else hits
        belonging = judge(
            library.scale, all_of_them, strange, new=not query.stored, cropped=cropped
        )
        return hits, belonging, squares

    def _by_squares(
        self, example: Example, k: int, only: Sequence[Condition], visit: Visit
    ) -> tuple[list[Hit], results.Squares, float | None]:
        """The hits, which square each is near to, and how unusual the square is that is nearest to any."""
        data, _ = self._original(example, visit)
        but = "" if example.own else example.name
        with closing(self.desk.engine.connect()) as embedder:
            found = by_tiles(
                self.desk.library.store, data, embedder, k, channels=self._channels(), but=but,
                only=only, thumbnails=True,
            )  # fmt: skip
        matched = {
            hit.row.id: number for hit, number in zip(found.hits, found.matched, strict=True)
        }
        strange = self.desk.engine.atypicality(found.projection) if example.own else None
        return found.hits, results.Squares(len(found.squares), matched), strange


def query_of(question: Question, known: Sequence[Known]) -> Query:
    """All that asks as one. Raises DataError where nothing is left of it."""
    first, many = known[0], len(known) > 1
    like = np.stack([one.vector for one in known[: len(question.like)]])
    unlike = [one.vector for one in known[len(question.like) :]]
    vector = direction(like, np.array(unlike, np.float32).reshape(-1, like.shape[1]))
    stored = not many and not first.example.own and first.example.box is None
    return Query(vector, first.fingerprint, first.row, stored, None if many else first.atypicality)


def meant(one: Condition, row: Row) -> Condition:
    """The condition; a category without a value is the query's own. Raises DataError where it has none."""
    if one.value:
        return one
    own = row.label if one.column == LABEL else row.columns.get(one.column)
    if own is None:
        raise DataError(
            f"{cards.file_name(row)} has no {one.column}, so none is the same or another. Show all again."
        )
    return replace(one, value=str(own))


def take_file(files: Sequence[Upload] | None) -> tuple[bytes, str]:
    """The bytes and the name of an uploaded file, which is then gone; Gradio has checked that it is one.

    Raises DataError where there is none, or several.
    """
    files = files or ()
    images = [file.path.read_bytes() for file in files]
    for file in files:
        file.path.unlink()
        with suppress(OSError):
            file.path.parent.rmdir()  # Gradio gives every upload a folder of its own
    if not files:
        raise DataError("No file arrived. Drop it again.")
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:3])
        raise DataError(
            f"{len(files)} files arrived ({names}{', ...' if len(files) > 3 else ''}). "
            "One image asks at a time: drop one of them."
        )
    return images[0], files[0].name
