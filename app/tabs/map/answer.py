"""What the Map tab answers; the layouts are the atlas's, what a visitor chose is the page's."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from app import colouring
from app.colouring import Colouring
from app.desk import Desk, note_of, noted
from app.layout import Layout, place_beside
from app.shell import Selection, look_at
from app.tabs.map import pieces
from app.tabs.map.atlas import AUTO, atlas_of
from app.tabs.search.visit import Query
from app.toolkit import gr
from jepack.errors import DataError

BESIDE = 5  # neighbours amid which an image from outside is placed
NOTHING = "No colour"


@dataclass(frozen=True)
class Board:
    """All that the tab shows, see `draw.shown`."""

    view: Any = None  # for the script: which places, which colours; None leaves it
    kind: Any = None  # of the layout
    by: Any = None
    legend: Any = None
    groups: Any = None
    state: str = ""
    working: bool = False


class Answers:
    """The tab's handlers over one desk; holds no state of a visitor."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.atlas = atlas_of(desk)

    def first_kind(self) -> str:
        """Neighbourhoods, unless making them would take long and nobody asked."""
        return "umap" if self.desk.library.store.count() <= AUTO else "pca"

    def show(self, kind: str, by: str | None) -> Board:
        """The map in this layout and colour; neighbourhoods that are missing are begun."""
        try:
            self.atlas.refresh()
            if kind == "umap" and self.atlas.known("umap") is None and not self.atlas.lacking:
                self.atlas.start()
            return self._board(kind, by)
        except Exception as error:
            return Board(view={"problem": str(error)}, state=note_of(error, "The map"))

    def tick(self, kind: str, by: str | None) -> Board:
        """While the work runs only its progress; then the map it made."""
        work = self.atlas.work
        if work is not None and work.running:
            return Board(state=self._state(None), working=True)
        return self.show_again(kind, by)

    def show_again(self, kind: str, by: str | None) -> Board:
        """As it is now, and nothing is begun."""
        try:
            return self._board(kind, by)
        except Exception as error:
            return Board(view={"problem": str(error)}, state=note_of(error, "The map"))

    def stop(self, by: str | None) -> Board:
        """End the work; the main directions stay."""
        self.atlas.stop()
        return self.show_again("pca", by)

    def pick(self, row: int) -> tuple[Any, Any]:
        """Look at an image in Search."""
        return look_at(self.atlas.ids[row])

    def choose(self, mask: str) -> Selection:
        """Of a bit for each image, least significant first, as base64."""
        return self._selection(np.flatnonzero(bits(mask, len(self.atlas.ids))), "on the map")

    def choose_category(self, code: int, by: str | None) -> Selection:
        coloured = self.atlas.coloured(self.desk, by or "")
        if coloured is None or not 0 <= code < len(coloured.names):
            return Selection()
        rows = np.flatnonzero(coloured.codes_N == code)
        return self._selection(rows, f"on the map: {coloured.names[code]}")

    def choose_group(self, at: int) -> Selection:
        return self.choose_category(at, "cluster")

    def chosen(self, selection: Selection) -> str:
        """A selection as `choose` takes one; "" for none."""
        if not selection.ids:
            return ""
        marks = np.zeros(len(self.atlas.ids), bool)
        for name in selection.ids:
            row = self.atlas.row_of(name)
            if row is not None:
                marks[row] = True
        return base64.b64encode(np.packbits(marks, bitorder="little").tobytes()).decode()

    def mark(self, query: Query | None, kind: str) -> list[float]:
        """Where what Search looks at lies, [x, y]: its own point, amid the nearest of a new image, or [].

        A new image that another encoder embedded has no place.
        """
        if query is None:
            return []
        layout, row = self.atlas.shown(kind), self.atlas.row_of(query.row.id)
        if query.stored and row is not None:
            return layout.xy_N2[row].tolist()
        store = self.desk.library.store
        if query.fingerprint != store.info.fingerprint:
            return []
        [hits] = store.search(query.vector[None], BESIDE, fingerprint=query.fingerprint)
        rows = [at for hit in hits if (at := self.atlas.row_of(hit.row.id)) is not None]
        return list(place_beside(layout, rows)) if rows else []

    def _selection(self, rows: npt.NDArray[np.int64], said: str) -> Selection:
        return Selection(tuple(self.atlas.ids[row] for row in rows), said)

    def _board(self, kind: str, by: str | None) -> Board:
        shown = self.atlas.shown(kind)
        offered = self._offered()
        name = by if by in offered.values() else next(iter(offered.values()), "")
        coloured = self.atlas.coloured(self.desk, name or "")
        work = self.atlas.work
        return Board(
            view=self._view(shown, name or "", coloured),
            kind=kind,
            by=gr.Dropdown(choices=list(offered.items()) or [(NOTHING, "")], value=name),
            legend=pieces.legend(coloured),
            groups=noted(self._groups, "The groups"),
            state=self._state(shown),
            working=bool(work and work.running),
        )

    def _offered(self) -> dict[str, str]:
        """{title: name} of what this index can be coloured by."""
        found = {
            source.title: name
            for name, source in colouring.SOURCES.items()
            if self.atlas.coloured(self.desk, name) is not None
        }
        families = colouring.families(self.desk)
        return found | {source.title: name for name, source in families.items()}

    def _view(self, shown: Layout, by: str, coloured: Colouring | None) -> dict[str, Any]:
        return {
            "layout": shown.kind,
            "by": by,
            "order": self.atlas.order,
            "count": len(self.atlas.ids),
            "colours": list(coloured.colours) if coloured is not None else [],
            "made": str(
                hash((shown.kind, by, coloured is not None and coloured.codes_N.tobytes()))
            ),
        }

    def _groups(self) -> str:
        layout = self.atlas.known("umap")
        if layout is None or layout.clusters is None:
            return ""
        coloured = self.atlas.coloured(self.desk, "cluster")
        names = [self.atlas.ids[row] for row in layout.clusters.medoid_C[: pieces.MOST_GROUPS]]
        if not names or coloured is None:
            return ""
        of_N = layout.clusters.of_N
        sizes: Sequence[int] = np.bincount(of_N[of_N >= 0]).tolist()
        rows = self.desk.library.store.get(names)
        return pieces.groups(rows, sizes, self.desk.seen, coloured.colours)

    def _state(self, shown: Layout | None) -> str:
        work = self.atlas.work
        if work is not None and work.running:
            return pieces.state(
                f"{work.title}. The main directions are shown meanwhile.", work.share
            )
        if shown is None:
            return ""
        text = pieces.told(shown)
        if work is not None and work.problem and self.atlas.known("umap") is None:
            text = f"{work.problem}. {text}"
        elif self.atlas.lacking and self.atlas.known("umap") is None:
            text = f"{text} {self.atlas.lacking}"
        return pieces.state(text)


def bits(mask: str, count: int) -> npt.NDArray[np.bool_]:
    """Raises DataError for what is no base64 of a bit for each of `count` images."""
    try:
        data = base64.b64decode(mask, validate=True)
    except (binascii.Error, ValueError):
        raise DataError("mask: need base64") from None
    if len(data) != -(-count // 8):
        raise DataError(
            f"mask: need a bit for each of {count:,} images, found {8 * len(data):,}. Reload the page."
        )
    return np.unpackbits(np.frombuffer(data, np.uint8), count=count, bitorder="little").astype(bool)
