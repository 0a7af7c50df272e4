"""A folder of images -> an index: vectors from an endpoint, a bundle or a file, and thumbnails.

The plan: `from_embedder` or `from_file` yields images with their vectors, in parts that fit in memory;
`write_index` adds thumbnails and rows, and replaces the old index only when all is written.
"""

from __future__ import annotations

import functools
import itertools
import os
import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from app import approximate
from app.approximate import Approximate
from app.engines import building, folder_of, open_index
from app.store import IndexInfo, Row
from app.thumbnail import size_of, thumbnail_of
from app.updating import PART, Kept, Part, stamp_of
from jepack.client import (
    Embeddings,
    Endpoint,
    Item,
    SavedRows,
    check_finished,
    default_output,
    saved_rows,
)
from jepack.decoding import Window, elongation
from jepack.errors import ArtifactError, DataError, JepackError
from jepack.machine import threads
from jepack.names import original, stored
from jepack.sources import ENDED, ImageFile, in_blocks

Progress = Callable[[int], None]  # called with the number of images just dealt with


class Embedder(Protocol):
    """What the app needs of `jepack.client.Client` or `jepack.inprocess.InProcess`; tests put vectors
    they know behind it."""

    def endpoint(self) -> Endpoint: ...

    def diagnose(self) -> str | None: ...

    def embed(self, items: Sequence[Item], *, skip_bad: bool = False) -> Embeddings: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Indexed:
    """What `write_index` did."""

    info: IndexInfo
    skipped: dict[str, str] = field(default_factory=dict)  # image id -> why it is not in the index
    same: int = 0  # images kept as they were, see updating.py
    gone: int = 0  # rows of an updated index whose image is not there any more
    narrow: int = 0  # images read now whose values fill less than half of their depth
    elongated: str | None = None  # a sentence, where an encoder that crops misses much
    approximate: Approximate | None = None  # where approximate search was tried

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self.info),
            "skipped": self.skipped,
            "same": self.same,
            "gone": self.gone,
            "narrow": self.narrow,
            "elongated": self.elongated,
            "approximate": self.approximate and asdict(self.approximate),
        }


@dataclass(frozen=True)
class Origin:
    """Where an index's vectors come from, and what is known of their encoder."""

    parts: Iterator[Part]
    output: str
    fingerprint: str
    bundle: str | None = None
    window: Window = None
    crop_pct: float = 1.0
    crop_mode: str = "center"
    notes: tuple[str, ...] = ()  # what the endpoint says of its encoder
    joined: list[str] = field(default_factory=list)  # notes on rows of a file, once all are read
    newer: set[ImageFile] = field(
        default_factory=set
    )  # than their vectors, of what was read so far


def of_file(
    path: Path,
    output: str | None,
    images: Sequence[ImageFile],
    base: Path,
    skipped: dict[ImageFile, str],
    on_progress: Progress,
) -> Origin:
    """Vectors that `jepack embed` wrote; `output` None: the one that its encoder says to search by.

    Raises ConfigError where that command has not ended.
    """
    check_finished(path)
    output = output or default_output(path)
    source = saved_rows(path, output)
    joined, newer = list[str](), set[ImageFile]()
    if source.base and os.path.realpath(original(source.base)) != os.path.realpath(base):
        joined.append(
            f"{path} holds vectors of images in {source.base}; they are taken for the images of the same "
            f"names in {base}"
        )
    parts = from_file(images, base, source, skipped, on_progress, joined.append, newer)
    return Origin(parts, output, source.fingerprint, joined=joined, newer=newer)


def of_embedder(
    embedder: Embedder,
    place: str,
    output: str | None,
    images: Sequence[ImageFile],
    skipped: dict[ImageFile, str],
    on_progress: Progress,
) -> Origin:
    """Vectors of an endpoint or a bundle at `place`; `output` None: the one that says to search by."""
    endpoint = embedder.endpoint()
    output = output or endpoint.default_output
    fingerprint = fingerprint_of(endpoint.fingerprints, output, place)
    parts = from_embedder(images, output, embedder, skipped, on_progress)
    return Origin(
        parts,
        output,
        fingerprint,
        bundle=endpoint.bundle,
        window=endpoint.window,
        crop_pct=endpoint.crop_pct,
        crop_mode=endpoint.crop_mode,
        notes=endpoint.notes,
    )


def from_embedder(
    images: Sequence[ImageFile],
    output: str,
    embedder: Embedder,
    skipped: dict[ImageFile, str],
    on_progress: Progress = lambda count: None,
) -> Iterator[Part]:
    """Embed `images`; those that are refused are noted in `skipped`."""
    for start in range(0, len(images), PART):
        part = list(images[start : start + PART])
        items = [image.path if image.part is None else image for image in part]
        result = embedder.embed(items, skip_bad=True)
        vectors = getattr(result, output)
        skipped.update({part[number]: reason for number, reason in result.errors.items()})
        yield [(part[number], vectors[number]) for number in np.flatnonzero(result.good)]
        on_progress(len(part))


def from_file(
    images: Sequence[ImageFile],
    base: Path,
    source: SavedRows,
    skipped: dict[ImageFile, str],
    on_progress: Progress = lambda count: None,
    on_note: Callable[[str], None] = lambda note: None,
    newer: set[ImageFile] | None = None,
) -> Iterator[Part]:
    """The rows of a file or folder with the `images` they are of, in its order and a block at a time.

    Images it does not hold are noted in `skipped`, those that changed since they were read for it in `newer`,
    rows of no image told to `on_note`; of a name it holds twice the first row counts.
    """
    newer = set() if newer is None else newer
    ends, read = np.cumsum([rows for rows, _ in source.since]), [ns for _, ns in source.since]
    at = 0
    waiting = {image.name_below(base): image for image in images}
    known, strange, first = frozenset(waiting), 0, ""
    for names, vectors in source.blocks():
        found = [
            (waiting.pop(name, None), vector)
            for name, vector in zip(map(stored, names), vectors, strict=True)
        ]
        others = [name for name in map(stored, names) if name not in known]
        strange, first = strange + len(others), first or (others[0] if others else "")
        of_rows = np.searchsorted(ends, np.arange(at, at + len(found)), side="right")
        at += len(found)
        newer.update(
            image
            for (image, _), part in zip(found, of_rows, strict=True)
            if image is not None and changed_since(image, read[part])
        )
        pairs = [(image, vector) for image, vector in found if image is not None]
        for start in range(0, len(pairs), PART):
            yield pairs[start : start + PART]
            on_progress(len(pairs[start : start + PART]))
    if strange:
        on_note(f"rows of images that are not in {base} are left out: {strange:,}, such as {first}")
    if newer:
        on_note(
            f"images that changed after they were embedded: {len(newer):,}. Their rows have the old vectors; "
            "`jepack index --update` embeds them anew"
        )
    skipped.update(dict.fromkeys(waiting.values(), "not in the file of embeddings"))
    on_progress(len(waiting))


def changed_since(image: ImageFile, read_ns: int) -> bool:
    try:
        return image.path.stat().st_mtime_ns >= read_ns
    except OSError:  # told where it is read
        return False


def write_index(
    out: Path | str,
    info: IndexInfo,
    parts: Iterator[Part],
    skipped: dict[ImageFile, str],
    window: Window = None,
    kept: Kept | None = None,
    recall: float | None = None,
    newer: Container[ImageFile] = (),
) -> Indexed:
    """Fill a new index at `out`; `info.dimension` is taken from the vectors. `kept`: what stays of the old.
    `recall`: see `approximate.wanted`. `newer`: images that are newer than their vectors, known once their
    part is there; they have no stamp.

    An index already at `out` stays until the new one is whole. Raises DataError when no image could
    be embedded.
    """
    work = functools.partial(picture_of, window=window, began_ns=time.time_ns())
    first = next((part for part in parts if part), None)
    if first is None:
        reason = next(iter(skipped.values()), "none was given")
        raise DataError(f"{info.data}: no image could be embedded (first reason: {reason})")
    info = replace(info, dimension=len(first[0][1]))
    narrow, shapes = 0, list[tuple[int, int]]()
    with building(out, info, recall) as store:
        for part in itertools.chain([first], parts):
            old = {image: kept.row(image) for image, _ in part} if kept else {}
            images = [image for image, _ in part if not old.get(image)]
            made = itertools.chain(*in_blocks(images, work, ended, min(4, threads.cores())))
            rows = []
            for image, vector in part:
                row = old.get(image)
                seen = Seen(row.thumbnail, stamp=row.stamp) if row else next(made)
                if seen.fault is not None:
                    skipped[image] = seen.fault
                    continue
                stamp = "" if image in newer else seen.stamp
                rows.append(
                    Row(
                        id=image_id(image, info),
                        label=image.label,
                        thumbnail=seen.picture,
                        vector=np.asarray(vector),
                        columns={
                            one.name: one.value(image.columns.get(one.name)) for one in info.columns
                        },
                        stamp=stamp,
                    )
                )
                narrow += seen.narrow
                shapes.append(size_of(seen.picture))
            store.upsert(rows, fingerprint=info.fingerprint)
        for others in kept.others() if kept else ():
            store.upsert(others, fingerprint=info.fingerprint)
    names = {image_id(image, info): reason for image, reason in skipped.items()}
    told = elongation(shapes) if info.crop_mode == "center" else None
    same, gone = (kept.same, kept.gone) if kept else (0, 0)
    how = approximate.read(folder_of(out))
    return Indexed(open_index(out).info, names, same, gone, narrow, told, how)


@dataclass(frozen=True)
class Seen:
    """What an image's own bytes give an index: its thumbnail, or why it has none, and its stamp."""

    picture: bytes = b""
    narrow: bool = False  # its values fill little of their depth
    stamp: str = ""
    fault: str | None = None


def picture_of(image: ImageFile, window: Window, began_ns: int) -> Seen:
    try:
        data = image.read()
        return Seen(*thumbnail_of(data, window), stamp_of(image, data, began_ns))
    except JepackError as error:
        return Seen(fault=str(error))
    except Exception as error:  # memory too: one image's fault is not the others'
        return Seen(fault=str(error) or type(error).__name__)


def ended(image: ImageFile) -> Seen:
    """As `picture_of`, of an image at which that ends its process."""
    return Seen(fault=ENDED)


def image_id(image: ImageFile, info: IndexInfo) -> str:
    return image.name_below(Path(info.data))


def fingerprint_of(fingerprints: dict[str, str], output: str, source: str) -> str:
    """The fingerprint of `output`; ArtifactError when `source` does not tell it."""
    try:
        return fingerprints[output]
    except KeyError:
        raise ArtifactError(
            f"{source}: tells no fingerprint of its {output}, so its vectors cannot be kept apart "
            "from another encoder's. Serve a jepack bundle: jepack serve BUNDLE"
        ) from None
