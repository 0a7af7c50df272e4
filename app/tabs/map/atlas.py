"""The layouts of the open index, and the work on the next; one for all visitors: they are the index's."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any
from weakref import WeakKeyDictionary

from app import arranging, colouring, layout
from app.colouring import Colouring
from app.desk import Desk
from app.layout import Layout
from app.work import Work
from jepack import stages
from jepack.errors import ArtifactError, DependencyError, JepackError

AUTO = 100_000  # images up to which the arrangement begins by itself
WORKER = "app.arranging"
PATIENCE_S = 0.2  # between looks at whether the work shall stop
_atlases: WeakKeyDictionary[Desk, Atlas] = WeakKeyDictionary()
_making = threading.Lock()


def atlas_of(desk: Desk) -> Atlas:
    """The one atlas of a desk: its routes and its handlers are made apart."""
    with _making:
        if desk not in _atlases:
            _atlases[desk] = Atlas(desk.library)
        return _atlases[desk]


class Atlas:
    """Reads what is kept in the index folder, makes what is missing. A rebuilt index starts anew."""

    def __init__(self, library: Any) -> None:
        self.library = library
        self._lock = threading.Lock()
        self._store: Any = None
        self.ids: list[str] = []
        self.labels: list[str | None] = []
        self.order = ""
        self.work: Work | None = None
        self._layouts: dict[str, Layout] = {}
        self._rows: dict[str, int] = {}

    def refresh(self) -> None:
        """Take up the index as it is now. Raises ArtifactError when it is gone."""
        store = self.library.store
        with self._lock:
            if store is self._store:
                return
            if self.work is not None:
                self.work.cancel()
                self.work = None
            rows = self.library.catalogue
            self.ids, self.labels = [row[0] for row in rows], [row[1] for row in rows]
            self.order = layout.order_of(self.ids)
            self._layouts, self._rows = {}, {}
            for kind in layout.KINDS:
                kept = layout.read(store.folder, kind, store.info.fingerprint, self.order)
                if kept is not None:
                    self._layouts[kind] = kept
            self._store = store

    def known(self, kind: str) -> Layout | None:
        """A layout that is there already."""
        self.refresh()
        return self._layouts.get(kind)

    def directions(self) -> Layout:
        """The "pca" layout, made where it is missing. Raises DataError for too few images."""
        self.refresh()
        with self._lock:
            if "pca" not in self._layouts:
                self._keep(layout.directions(self._store))
            return self._layouts["pca"]

    def shown(self, kind: str) -> Layout:
        """The layout that is asked for, or the other where it is not there yet."""
        return self.known(kind) or self.directions()

    def coloured(self, desk: Desk, name: str) -> Colouring | None:
        """None where this index has nothing to colour by under this name."""
        self.refresh()
        source = colouring.source_of(desk, name)
        return source.make(desk, self.labels, self._layouts.get("umap")) if source else None

    def row_of(self, name: str) -> int | None:
        self.refresh()
        with self._lock:
            if not self._rows:
                self._rows = {one: at for at, one in enumerate(self.ids)}
            return self._rows.get(name)

    @property
    def lacking(self) -> str:
        """Why no arrangement by neighbourhoods can be made here; "" where it can."""
        if len(self.ids) < arranging.LEAST:
            return (
                f"Neighbourhoods need {arranging.LEAST} images or more; with {len(self.ids)} the main "
                "directions are all there is to see."
            )
        if find_spec("umap") is None:
            return "Neighbourhoods need umap-learn: pip install 'jepack[app]'"
        return ""

    def start(self) -> None:
        """Begin to arrange by neighbourhoods, unless that is done or under way. Raises DependencyError."""
        self.refresh()
        if self.lacking:
            raise DependencyError(self.lacking)
        with self._lock:
            if "umap" not in self._layouts and not (self.work and self.work.running):
                self.work = Work("Starting", partial(self._arrange, self._store))

    def stop(self) -> None:
        if self.work is not None:
            self.work.cancel()
            self.work.wait(10)

    def _arrange(self, store: Any, work: Work) -> None:
        """In a thread of its own; the work itself is in a process of its own."""
        with tempfile.TemporaryDirectory(prefix="jepack-map-") as place:
            out = Path(place) / "layout.npz"
            run([sys.executable, "-m", WORKER, str(store.folder.absolute()), str(out)], work)
            made = layout.unpacked(out.read_bytes())
        with self._lock:
            if store is not self._store:
                return
            self._keep(made)

    def _keep(self, made: Layout) -> None:
        """Under the lock."""
        if made.order != self.order:
            raise ArtifactError(
                f"{self._store.folder}: has changed since the page opened it: {len(self.ids):,} images then, "
                f"{len(made.xy_N2):,} now. Start the page again"
            )
        self._layouts[made.kind] = made
        with suppress(JepackError, OSError):  # a folder that this user may not write to
            layout.write(self._store.folder, made)


def run(command: list[str], work: Work) -> None:
    """The process to its end, its lines told to `work`; killed as soon as `work` shall stop, or this process
    ends. Raises ArtifactError with what it last said when it fails."""
    path = os.pathsep.join(filter(None, sys.path))
    with (
        tempfile.TemporaryFile() as told,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # never written to: it closes when this process ends
            stdout=subprocess.PIPE,
            stderr=told,
            cwd=stages.home(),  # the folder a person works in may hold an `app` of its own
            env={**os.environ, "PYTHONPATH": path},
        ) as process,
    ):
        assert process.stdout is not None
        try:
            follow(process.stdout, partial(say, work))
        except BaseException:
            process.kill()
            raise
        if process.wait() != 0:
            told.seek(0)
            lines = told.read().decode(errors="replace").strip().splitlines()
            raise ArtifactError(
                f"Arranging ended early: {lines[-1] if lines else process.returncode}"
            )


def follow(stream: IO[bytes], on_line: Callable[[str], None]) -> None:
    """Every line until the end; "" again and again while there is none."""
    rest = b""
    with selectors.DefaultSelector() as ready:
        ready.register(stream, selectors.EVENT_READ)
        while True:
            if not ready.select(PATIENCE_S):
                on_line("")
                continue
            part = os.read(stream.fileno(), 65536)
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                on_line(line.decode(errors="replace"))
            if not part:
                return


def say(work: Work, line: str) -> None:
    share, _, said = line.partition(" ")
    if said:
        work.title = said
    work.advance(float(share) if said else work.share)
