"""What an image is: a file, or a part of one, with its class and what a manifest says of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from jepack.errors import DataError
from jepack.names import kept
from jepack.sources.oversize import own_bytes
from jepack.sources.reading import read_part

Box = tuple[float, float, float, float]  # left, top, width, height, px


@dataclass(frozen=True)
class ImageFile:
    """One image; `label` is its class, by its folder's name or the manifest's column."""

    path: Path
    label: str | None = None
    part: str | None = None  # which image of a file that holds many; see parts.py
    columns: dict[str, str] = field(default_factory=dict, compare=False)  # the manifest's others
    box: Box | None = None  # the region that matters
    mask: Path | None = None  # a picture of its shape, not 0 where something matters

    def read(self) -> bytes:
        """The image's own bytes; of a smaller picture where the server would refuse their size; npy (or
        TIFF, PNG) where it is a slice of something larger. Raises DataError."""
        if self.part is None:
            if self.path.is_symlink() and not self.path.exists():
                link = kept(os.readlink(self.path))
                raise DataError(
                    f"{self.path}: cannot be read (a link to {link}, which is not there)"
                )
            return own_bytes(self.path)
        return read_part(self.path, self.part)

    @property
    def name(self) -> str:
        """For people: one line of valid text (see names.kept)."""
        return kept(str(self.path) if self.part is None else f"{self.path}#{self.part}")

    def name_below(self, base: Path) -> str:
        """`cat/a.png`, `../b.png`, `scan.h5#slice=/x:3`: the name counted from `base` (see Source).

        Valid text of one line (see names.kept); what indexes, embeddings and bundles call the image.
        """
        path = Path(os.path.relpath(self.path, base)).as_posix()
        return kept(path if self.part is None else f"{path}#{self.part}")
