"""What `jepack index --update` keeps of the index that is there: rows of images that have not changed.

The new index is written beside the old one and takes its place when it is whole, as every index is; kept
rows are copied, so an index that was updated often is as compact as a new one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from app.store import Row, Vectors, VectorStore
from jepack.errors import ArtifactError, JepackError
from jepack.sources import ImageFile

PART = 256  # images per part: 256 x 512 floats and as many thumbnails are about 1.5 MB

Part = list[tuple[ImageFile, Vectors]]  # each image with its vector [D]


def stamp_of(image: ImageFile, data: bytes, began_ns: int) -> str:
    """What tells an image from its later self: "SIZE TIME DIGEST" of its file's size (bytes), its time of
    change (ns) and SHA-256 of its own bytes.

    "" for a file that changed since `began_ns`, when the first was embedded (ns since 1970): its vector may
    be of what it held before.
    """
    about = image.path.stat()
    if about.st_mtime_ns >= began_ns:
        return ""
    return f"{about.st_size} {about.st_mtime_ns} {digest_of(data)}"


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def unchanged(image: ImageFile, stamp: str) -> bool:
    """By size and time; where only the time differs (a copy, a checkout), by its bytes."""
    try:
        size, changed, digest = stamp.split()
        about = image.path.stat()
        if about.st_size != int(size) and image.part is None:
            return False
        if (about.st_size, about.st_mtime_ns) == (int(size), int(changed)):
            return True
        return digest_of(image.read()) == digest
    except (ValueError, OSError, JepackError):  # no stamp, or a fault that is told where it is read
        return False


class Kept:
    """The rows of the index at `old` that may stay. `prune`: those of images that are gone do not."""

    def __init__(self, old: VectorStore, base: Path, *, prune: bool = False) -> None:
        self.old, self.base, self.prune = old, base, prune
        self.same = 0  # images that are as they were
        self.gone = 0  # rows whose image is not there any more
        self._rows: dict[ImageFile, Row] = {}
        self._names: set[str] = set()

    def check(self, folder: Path | str, output: str, fingerprint: str) -> None:
        """Raises ArtifactError when these vectors would not belong to the rows that are kept."""
        info = self.old.info
        if (info.output, info.fingerprint) != (output, fingerprint):
            raise ArtifactError(
                f"{folder}: holds {info.output} {info.fingerprint}, and the encoder gives {output} "
                f"{fingerprint}: nothing of it can be kept. Leave --update out to embed all images again, or "
                "choose another --out"
            )
        if info.data != str(self.base):
            raise ArtifactError(
                f"{folder}: is an index of {info.data}, not of {self.base}. Leave --update out to "
                "replace it, or choose another --out"
            )

    def parts(
        self,
        images: Sequence[ImageFile],
        embed: Callable[[Sequence[ImageFile]], Iterator[Part]],
        on_progress: Callable[[int], None],
    ) -> Iterator[Part]:
        """Each image with its vector: kept where the image is as it was, else of `embed`."""
        for start in range(0, len(images), PART):
            part = images[start : start + PART]
            names = {image: image.name_below(self.base) for image in part}
            self._names.update(names.values())
            known = self.old.found(list(names.values()))
            same = {
                image: known[name]
                for image, name in names.items()
                if name in known and unchanged(image, known[name].stamp)
            }
            self._rows.update(same)
            self.same += len(same)
            on_progress(len(same))
            new = dict(pair for some in embed([i for i in part if i not in same]) for pair in some)
            vectors = {image: row.vector for image, row in same.items()} | new
            yield [(image, vector) for image in part if (vector := vectors.get(image)) is not None]

    def row(self, image: ImageFile) -> Row | None:
        """What the old index holds of an image that is as it was; once."""
        return self._rows.pop(image, None)

    def others(self) -> Iterator[list[Row]]:
        """Whole rows whose images are not there any more; none where they are pruned. After all parts."""
        for some in self.old.scan():
            names = [row.id for row in some if row.id not in self._names]
            self.gone += len(names)
            for start in range(0, 0 if self.prune else len(names), PART):
                yield self.old.get(names[start : start + PART])
