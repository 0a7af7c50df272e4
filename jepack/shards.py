"""WebDataset shards: tar files in which the files of one sample share a name.

Read by offset, so any picture is one seek away and several ranks can share a shard.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tarfile
import urllib.request
from pathlib import Path
from typing import Any

from jepack.errors import DataError
from jepack.files import cache_root
from jepack.images import ImageFile
from jepack.preprocess import SUFFIXES

LABELS = (".cls", ".txt")


def find_shards(data: str) -> list[ImageFile]:
    """Local shards or addresses, `{000..012}` for a range; addresses are fetched once, into the cache."""
    names = [data]
    if match := re.search(r"\{(\d+)\.\.(\d+)\}", data):
        first, last = match.groups()
        names = [
            data.replace(match.group(0), str(n).zfill(len(first)))
            for n in range(int(first), int(last) + 1)
        ]
    return [
        file for name in names for file in members(fetched(name) if "://" in name else Path(name))
    ]


def fetched(url: str) -> Path:
    """A shard from an address, downloaded into the cache unless it is there."""
    target = cache_root() / "shards" / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.tar"
    if target.is_file():
        return target
    if not url.startswith(("https://", "http://")):
        raise DataError(f"{url}: shards come from https or http addresses, or files")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, partial.open("wb") as stream:
            shutil.copyfileobj(answer, stream, 1 << 20)
            stream.flush()
            os.fsync(stream.fileno())
            length = answer.headers.get("Content-Length")
        if length is not None and int(length) != partial.stat().st_size:
            raise DataError(f"{url}: cut short at {partial.stat().st_size} of {length} bytes")
        os.replace(partial, target)
    except (OSError, ValueError) as error:
        raise DataError(f"{url}: cannot be fetched ({error})") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def members(path: Path) -> list[ImageFile]:
    """The pictures of a shard, by offset; `a.cls` or `a.json` (its label) belongs to `a.png`."""
    found: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile():
                    folder, _, name = member.name.rpartition("/")
                    key, _, suffix = name.partition(".")
                    found.setdefault(f"{folder}/{key}", {})[f".{suffix.lower()}"] = member
            images = []
            for sample in found.values():
                picture = next(
                    (sample[s] for s in sample if f".{s.rpartition('.')[2]}" in SUFFIXES), None
                )
                if picture is None:
                    continue
                label, columns = label_of(archive, sample)
                part = f"bytes={picture.offset_data}:{picture.size}"
                images.append(ImageFile(path, label, part, columns))
            return images
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{path}: not a readable shard ({error})") from error


def label_of(archive: tarfile.TarFile, sample: dict[str, Any]) -> tuple[str | None, dict[str, str]]:
    def content(member: Any) -> str:
        stream = archive.extractfile(member)
        return stream.read().decode(errors="replace").strip() if stream else ""

    for suffix in LABELS:
        if suffix in sample:
            return content(sample[suffix]) or None, {}
    if ".json" in sample:
        try:
            told = json.loads(content(sample[".json"]))
            columns = {str(k): str(v) for k, v in told.items() if isinstance(v, (str, int, float))}
            return columns.pop("label", None), columns
        except (ValueError, AttributeError):
            pass
    return None, {}
