"""WebDataset shards: tar files in which the files of one sample share a name.

Read by offset, so any picture is one seek away and several ranks can share a shard. samples.py says which
members are one sample.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from jepack.errors import DataError
from jepack.files import sha256_of, write_bytes
from jepack.sources.fetching import fetch, fetched_record, place_of
from jepack.sources.folders import Notes
from jepack.sources.image import ImageFile
from jepack.sources.samples import WAY_OUT, is_packed, samples

FORMAT = 2  # of a record: what counts as an image and its label


def find_shards(names: Sequence[str], told: Notes) -> list[ImageFile]:
    """The images of local shards or of addresses.

    Of a shard from an address the list of what it holds is kept beside it, so that the shard itself may go
    (caches.py) and is fetched again when one of its images is read.
    """
    return [
        file
        for name in names
        for file in (listed(name, told) if "://" in name else members(Path(name), told))
    ]


def listed(url: str, told: Notes) -> list[ImageFile]:
    """The images of a shard from an address, which is fetched when it was never seen."""
    if is_packed(url):  # before all of it is fetched
        raise DataError(f"{url}: called packed; {WAY_OUT}")
    path = place_of(url)
    record = fetched_record(path)
    if record is None or record.get("format") != FORMAT:
        fetch(url, path)
        notes: Notes = {}
        content = [[file.label, file.part, file.columns] for file in members(path, notes)]
        record = {
            "format": FORMAT, "url": url, "bytes": path.stat().st_size,
            "sha256": sha256_of(path), "images": content, "notes": list(notes),
        }  # fmt: skip
        write_bytes(path.with_suffix(".json"), json.dumps(record).encode())
    for note in record.get("notes", ()):
        told.setdefault(note, []).append(url)
    return [ImageFile(path, label, part, columns) for label, part, columns in record["images"]]


def members(path: Path, told: Notes | None = None) -> list[ImageFile]:
    """The pictures of a shard, by offset; `a.cls` or `a.json` (its label) belongs to `a.png`."""
    images, notes = samples(path)
    for note in notes:
        ({} if told is None else told).setdefault(note, []).append(path)
    return [
        ImageFile(path, sample.label, f"bytes={sample.offset}:{sample.size}", sample.columns)
        for sample in images
    ]
