"""Which images an encoder was fitted on, as far as its manifest records it. No decoding here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jepack.errors import JepackError
from jepack.names import kept, stored
from jepack.sources.image import ImageFile
from jepack.sources.manifest import read_manifest
from jepack.sources.source import Source


@dataclass(frozen=True)
class Record:
    """The data of a bundle: where it lay, and the names kept out of training."""

    data: Path | None  # folder or file; None where it is not recorded or not on this machine
    base: Path | None  # the folder that names count from
    held_out: frozenset[str]  # names below `base`; empty where nobody noted them

    @property
    def known(self) -> bool:
        """Can images of the recorded folder be told apart?"""
        return self.base is not None and bool(self.held_out)

    def fitted_on(self, images: Sequence[ImageFile]) -> list[bool]:
        """True for images of the recorded data that are not among those kept out.

        Copies elsewhere are not recognised: an image of another folder counts as unseen, and so does one
        that a recorded manifest does not list, or that lies in another file than the recorded one.
        """
        if self.base is None or not self.held_out:
            return [False] * len(images)
        files = None if self.data is None else files_of(self.data)
        return [
            (files is None or os.path.realpath(image.path) in files) and self._fitted(image)
            for image in images
        ]

    def _fitted(self, image: ImageFile) -> bool:
        assert self.base is not None
        tail = "" if image.part is None else f"#{image.part}"
        ways = {(str(image.path), str(self.base))}
        ways.add((os.path.realpath(image.path), os.path.realpath(self.base)))  # through links too
        names = {kept(Path(os.path.relpath(path, base)).as_posix() + tail) for path, base in ways}
        inside = any(not name.startswith("../") for name in names)
        return inside and not names & self.held_out


def record_of(manifest: dict[str, Any]) -> Record:
    """What the manifest's provenance says of the data.

    provenance["data"] is a folder, or {"folder": ..., "source": a file of it that lists or holds the images,
    "held_out": [names]}.
    """
    data = (manifest.get("provenance") or {}).get("data")
    data = {"folder": data} if isinstance(data, str) else data
    if not isinstance(data, dict) or not isinstance(data.get("folder"), str):
        return Record(None, None, frozenset())
    base, names = Path(data["folder"]), data.get("held_out")
    held_out = frozenset(map(stored, names)) if isinstance(names, list) else frozenset()
    if not data["folder"] or not base.is_absolute() or not base.exists():
        return Record(None, None, held_out)
    return Record(base / str(data.get("source", "")), base, held_out)


def files_of(data: Path) -> frozenset[str] | None:
    """Real paths of the files that a manifest lists, or of a file that holds many images.

    None for a folder, which is all that lies below it, and for a source that cannot be read any more.
    """
    try:
        source = Source.of(data)
        if source.kind == "manifest":
            paths = [file.path for file in read_manifest(source.path, {})]
        elif source.kind == "file":
            paths = [source.path]
        else:
            return None
    except JepackError:
        return None
    return frozenset(map(os.path.realpath, paths))
