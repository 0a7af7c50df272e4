"""What the Search tab answers: each method gives HTML and the state to keep.

Whatever goes wrong becomes a note in the place of the results; the page lives on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app import cards
from app.desk import Desk, note_of
from app.search import by_id, by_image
from app.shell import Selection
from app.store import Hit, Row, Vectors
from app.thumbnail import make_thumbnail
from app.toolkit import gr
from jepack.errors import DataError

PER_PAGE = 24
K, MOST = 10, 50  # neighbours at first, and at most


@dataclass(frozen=True)
class Query:
    """What the page is looking at; kept so that another k needs no second embedding."""

    vector: Vectors  # [D]
    fingerprint: str
    row: Row  # an uploaded image's id is its file name
    stored: bool  # whether it is an image of the index


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

    def upload(self, paths: Sequence[str] | None, k: int) -> Shown:
        """Neighbours of a new image, embedded through the endpoint; the uploaded file is deleted."""

        def search() -> tuple[Query, list[Hit]]:
            image, name = take_file(paths)
            try:
                row = Row(id=name, thumbnail=make_thumbnail(image))
            except DataError as error:
                raise DataError(f"{name}: {str(error).removeprefix('image: ')}") from error
            store = self.desk.library.store
            embedder = self.desk.engine.connect()
            try:
                vector, hits = by_image(store, image, embedder, int(k), thumbnails=True)
            finally:
                embedder.close()
            return Query(vector, store.info.fingerprint, row, False), hits

        return self._show(search)

    def resize(self, query: Query | None, k: int) -> tuple[Any, ...]:
        """The same query with another k; what was typed out of reach is set right in its box."""
        if query is None:
            return (*self.nothing(), k)

        def search() -> tuple[Query, list[Hit]]:
            store = self.desk.library.store
            if query.stored:
                return query, by_id(store, query.row.id, int(k), thumbnails=True)[1]
            [hits] = store.search(
                query.vector[None], int(k), fingerprint=query.fingerprint, thumbnails=True
            )
            return query, hits

        return (*self._show(search), k)

    def browse(
        self, number: int, label: str | None, seed: int, chosen: Selection
    ) -> tuple[str, str, int, int]:
        """A page of the gallery: its HTML, "3 of 132", its number from 0, the seed of the order."""
        rows, pages = self.desk.library.page(
            number, PER_PAGE, label=label or "", seed=seed, among=chosen.ids
        )
        number %= pages
        return cards.browse(rows), f"{number + 1:,} of {pages:,}", number, seed

    def _show(self, search: Search) -> Shown:
        try:
            query, hits = search()
        except Exception as error:
            return "", note_of(error, "The search"), None
        own = query.row.id if query.stored else None
        strip = cards.query(
            cards.file_name(query.row),
            cards.picture(query.row),
            cards.label_chip(query.row.label, self.desk.colours),
            cards.agreement(hits, own, query.row.label),
        )
        return strip, cards.neighbours(hits, own, self.desk.colours), query


def take_file(paths: Sequence[str] | None) -> tuple[bytes, str]:
    """The bytes and the name of an uploaded file, which is then gone; Gradio has checked that it is one.

    Raises DataError where there is none, or several.
    """
    files = [Path(path) for path in paths or ()]
    images = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
        with suppress(OSError):
            file.parent.rmdir()  # Gradio gives every upload a folder of its own
    if not files:
        raise DataError("No file arrived. Drop it again.")
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:3])
        raise DataError(
            f"{len(files)} files arrived ({names}{', ...' if len(files) > 3 else ''}). "
            "One image asks at a time: drop one of them."
        )
    return images[0], files[0].name
