"""What the Search tab answers: each method gives HTML and the state to keep.

Whatever goes wrong becomes a note in the place of the results; the page lives on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from app import cards
from app.belonging import judge
from app.desk import Desk, note_of
from app.search import by_id, by_image
from app.shell import Selection
from app.store import Hit, Row, Vectors
from app.tabs.search import pieces
from app.thumbnail import make_thumbnail
from app.toolkit import Upload, gr
from jepack.errors import DataError

PER_PAGE = 24
K, MOST = 10, 50  # neighbours at first, and at most


@dataclass(frozen=True, eq=False)  # arrays have no hash, by which Gradio tells that a state changed
class Query:
    """What the page is looking at; kept so that another k needs no second embedding."""

    vector: Vectors  # [D]
    fingerprint: str
    row: Row  # an uploaded image's id is its file name
    stored: bool  # whether it is an image of the index
    atypicality: float | None = None  # of an uploaded one, where the bundle's null is at hand


Shown = tuple[Any, Any, Any]  # HTML of the query, HTML of the results, the Query (None: no search)
Search = Callable[[], tuple[Query, list[Hit]]]


class Answers:
    """The tab's handlers over one desk; holds no state of a visitor."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def nothing(self) -> Shown:
        """All stays as it is."""
        return gr.skip(), gr.skip(), gr.skip()

    def pick(self, name: str, k: int) -> Shown:
        """Neighbours of an indexed image; needs no endpoint."""

        def search() -> tuple[Query, list[Hit]]:
            store = self.desk.library.store
            row, hits = by_id(store, name, int(k), thumbnails=True)
            assert row.vector is not None
            return Query(row.vector, store.info.fingerprint, row, True), hits

        return self._show(search)

    def upload(self, files: Sequence[Upload] | None, k: int) -> Shown:
        """Neighbours of a new image, embedded through the endpoint; the uploaded file is deleted."""

        def search() -> tuple[Query, list[Hit]]:
            image, name = take_file(files)
            try:
                row = Row(id=name, thumbnail=make_thumbnail(image))
            except DataError as error:
                raise DataError(f"{name}: {str(error).removeprefix('image: ')}") from error
            store = self.desk.library.store
            embedder = self.desk.engine.connect()
            try:
                found = by_image(store, image, embedder, int(k), thumbnails=True)
            finally:
                embedder.close()
            strange = self.desk.engine.atypicality(found.projection)
            return Query(found.vector, store.info.fingerprint, row, False, strange), found.hits

        return self._show(search)

    def resize(self, query: Query | None, k: int) -> Shown:
        """The same query with another k."""
        if query is None:
            return self.nothing()

        def search() -> tuple[Query, list[Hit]]:
            store = self.desk.library.store
            if query.stored:
                return query, by_id(store, query.row.id, int(k), thumbnails=True)[1]
            [hits] = store.search(
                query.vector[None], int(k), fingerprint=query.fingerprint, thumbnails=True
            )
            return query, hits

        return self._show(search)

    def browse(
        self, number: int, label: str | None, seed: int, chosen: Selection
    ) -> tuple[str, str, int, int]:
        """A page of the gallery: its HTML, "3 of 132", its number from 0, the seed of the order."""
        try:
            rows, pages = self.desk.library.page(
                number, PER_PAGE, label=label or "", seed=seed, among=chosen.ids
            )
        except Exception as error:
            return note_of(error, "Reading the index"), "", number, seed
        number %= pages
        return cards.browse(rows, self.desk.seen), f"{number + 1:,} of {pages:,}", number, seed

    def _show(self, search: Search) -> Shown:
        try:
            query, hits = search()
        except Exception as error:
            return "", note_of(error, "The search"), None
        scale, seen, colours = self.desk.library.scale, self.desk.seen, self.desk.colours
        summary = pieces.agreement(hits, query.row.label)
        cropped = cards.unseen(query.row, seen) > cards.MOST_UNSEEN
        belonging = judge(scale, hits, query.atypicality, new=not query.stored, cropped=cropped)
        strip = pieces.query(query.row, seen, colours, summary, belonging)
        return strip, pieces.neighbours(hits, scale, seen, colours), query


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
