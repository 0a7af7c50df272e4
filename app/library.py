"""What the page knows: the open index, its browsing order, and whether the endpoint can be used."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.indexing import Embedder, fingerprint_of
from app.lance import LanceStore, open_index
from app.store import METADATA, Row
from jepack.errors import JepackError

Connect = Callable[[str], Embedder]


class Library:
    """An index folder that may be rebuilt while the page is open; every question sees the newest."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._lock = threading.Lock()
        self._open(self._stamp())

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.folder / METADATA)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _open(self, stamp: tuple[int, int] | None) -> None:
        self._store = open_index(self.folder)
        # The whole catalogue, without vectors and pictures: about 100 bytes an image.
        self._catalogue = [(row.id, row.label) for part in self._store.scan() for row in part]
        self._seen = stamp

    @property
    def store(self) -> LanceStore:
        with self._lock:
            stamp = self._stamp()
            if stamp != self._seen:
                self._open(stamp)
            return self._store

    def labels(self) -> dict[str, int]:
        """Images per label, by name; empty when the images have none."""
        counts = Counter(label for _, label in self._catalogue if label is not None)
        return dict(sorted(counts.items()))

    def page(
        self, number: int, size: int, *, label: str = "", seed: int = 0
    ) -> tuple[list[Row], int]:
        """Rows of one page of a mixed order, and the number of pages; `number` wraps around.

        Mixed, because stored order shows one class folder after the other.
        """
        store = self.store
        names = [name for name, own in self._catalogue if not label or own == label]
        random.Random(seed).shuffle(names)
        pages = max(1, -(-len(names) // size))
        start = number % pages * size
        return store.get(names[start : start + size]), pages


@dataclass(frozen=True)
class EndpointState:
    """`kind`: "ready"; "other", it serves another encoder than the index holds; or "down"."""

    kind: str
    headline: str
    detail: str = ""


def endpoint_state(library: Library, url: str, connect: Connect) -> EndpointState:
    """Ask the endpoint for a real embedding and its fingerprint; never raises for what it answers."""
    try:
        client = connect(url)
        try:
            reason = client.diagnose()
            if reason is not None:
                return EndpointState(
                    "down", "Endpoint not usable: clicking works, uploads do not", reason
                )
            info = library.store.info
            serves = fingerprint_of(client.endpoint().fingerprints, info.output, url)
        finally:
            client.close()
    except JepackError as error:
        return EndpointState(
            "down", "Endpoint not usable: clicking works, uploads do not", str(error)
        )
    if serves != info.fingerprint:
        return EndpointState(
            "other",
            "Endpoint serves another encoder: uploads cannot be compared",
            f"{url} serves {info.output} {serves}, the index holds {info.fingerprint}. "
            f"Rebuild it: jepack index {info.data} --url {url} --out {library.folder}",
        )
    return EndpointState("ready", "Endpoint ready", url)
