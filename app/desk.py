"""What the page does when someone clicks: each method answers with HTML and the state to keep.

Whatever goes wrong becomes a note in the place of the results; the page lives on.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app import cards
from app.library import Connect, Library, endpoint_state
from app.search import by_id, by_image
from app.store import Hit, Row, Vectors
from app.thumbnail import make_thumbnail
from app.toolkit import gr
from jepack.errors import DataError, JepackError

PER_PAGE = 24


@dataclass(frozen=True)
class Query:
    """What the page is looking at; kept so that another k needs no second embedding."""

    vector: Vectors  # [D]
    fingerprint: str
    row: Row  # an uploaded image's id is its file name
    stored: bool  # whether it is an image of the index


Shown = tuple[Any, Any, Any]  # HTML of the query, HTML of the results, the Query (None: no search)
Search = Callable[[], tuple[Query, list[Hit]]]


class Desk:
    """The page's handlers over one library; holds no state of a visitor."""

    def __init__(self, library: Library, url: str, connect: Connect) -> None:
        self.library = library
        self.url = url
        self._connect = connect
        self._colours = cards.colours_of(list(library.labels()))

    def pick(self, name: str, k: int) -> Shown:
        """Neighbours of an indexed image; needs no endpoint."""

        def search() -> tuple[Query, list[Hit]]:
            store = self.library.store
            row, hits = by_id(store, name, int(k), thumbnails=True)
            assert row.vector is not None
            return Query(row.vector, store.info.fingerprint, row, True), hits

        return self._show(search)

    def upload(self, path: str | None, k: int) -> Shown:
        """Neighbours of a new image, embedded through the endpoint; the uploaded file is deleted."""

        def search() -> tuple[Query, list[Hit]]:
            image, name = take_file(path), Path(path or "").name
            try:
                row = Row(id=name, thumbnail=make_thumbnail(image))
            except DataError as error:
                raise DataError(f"{name}: {str(error).removeprefix('image: ')}") from error
            store = self.library.store
            # A new client each time: one that lives on would not notice another bundle being served.
            client = self._connect(self.url)
            try:
                vector, hits = by_image(store, image, client, int(k), thumbnails=True)
            finally:
                client.close()
            return Query(vector, store.info.fingerprint, row, False), hits

        return self._show(search)

    def resize(self, query: Query | None, k: int) -> Shown:
        """The same query with another k."""
        if query is None:
            return gr.skip(), gr.skip(), gr.skip()

        def search() -> tuple[Query, list[Hit]]:
            store = self.library.store
            if query.stored:
                return query, by_id(store, query.row.id, int(k), thumbnails=True)[1]
            [hits] = store.search(
                query.vector[None], int(k), fingerprint=query.fingerprint, thumbnails=True
            )
            return query, hits

        return self._show(search)

    def browse(self, number: int, label: str | None, seed: int) -> tuple[str, str, int, int]:
        """A page of the gallery: its HTML, "3 of 132", its number from 0, the seed of the order."""
        rows, pages = self.library.page(number, PER_PAGE, label=label or "", seed=seed)
        number %= pages
        return cards.browse(rows), f"{number + 1:,} of {pages:,}", number, seed

    def probe(self) -> str:
        """Whether uploads would work right now."""
        state = endpoint_state(self.library, self.url, self._connect)
        return cards.status(state.kind, state.headline, state.detail)

    def _show(self, search: Search) -> Shown:
        try:
            query, hits = search()
        except JepackError as error:
            return "", cards.note(str(error)), None
        except Exception as error:
            # The terminal keeps what a maintainer needs.
            traceback.print_exc(file=sys.stderr)
            return "", cards.note(f"The search failed: {error}"), None
        own = query.row.id if query.stored else None
        strip = cards.query(
            cards.file_name(query.row),
            cards.picture(query.row),
            cards.label_chip(query.row.label, self._colours),
            cards.agreement(hits, own, query.row.label),
        )
        return strip, cards.neighbours(hits, own, self._colours), query


def take_file(path: str | None) -> bytes:
    """The bytes of an uploaded file, which is then gone; Gradio has checked that it is an upload."""
    if path is None:
        raise DataError("No file arrived. Drop it again.")
    file = Path(path)
    image = file.read_bytes()
    file.unlink()
    with suppress(OSError):
        file.parent.rmdir()  # Gradio gives every upload a folder of its own
    return image
