"""WebDataset shards: tar files in which the files of one sample share a name.

Read by offset, so any picture is one seek away and several ranks can share a shard.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import tarfile
import time
import urllib.error
from pathlib import Path
from typing import Any

from jepack import caches, loopback
from jepack.errors import DataError, JepackError, SourceError
from jepack.files import cache_root, fsync, write_bytes
from jepack.images import ImageFile
from jepack.preprocess import SUFFIXES

LABELS = (".cls", ".txt")
PAUSES_S = (1.0, 5.0, 20.0)  # between tries to fetch, when the fault may pass


def find_shards(data: str) -> list[ImageFile]:
    """Local shards or addresses, `{000..012}` for a range.

    Of a shard from an address the list of what it holds is kept beside it, so that the shard itself may go
    (caches.py) and is fetched again when one of its images is read.
    """
    names = [data]
    if match := re.search(r"\{(\d+)\.\.(\d+)\}", data):
        first, last = match.groups()
        names = [
            data.replace(match.group(0), str(n).zfill(len(first)))
            for n in range(int(first), int(last) + 1)
        ]
    return [
        file for name in names for file in (listed(name) if "://" in name else members(Path(name)))
    ]


def listed(url: str) -> list[ImageFile]:
    """The images of a shard from an address, which is fetched when it was never seen."""
    path = place_of(url)
    record = path.with_suffix(".json")
    if not record.is_file():
        fetch(url, path)
        content = [[file.label, file.part, file.columns] for file in members(path)]
        told = {"url": url, "bytes": path.stat().st_size, "images": content}
        write_bytes(record, json.dumps(told).encode())
    told = json.loads(record.read_text())
    return [ImageFile(path, label, part, columns) for label, part, columns in told["images"]]


def place_of(url: str) -> Path:
    return cache_root() / "shards" / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.tar"


def fetched_record(path: Path) -> dict[str, Any] | None:
    """What is known of a shard that came from an address; None of any other file."""
    record = path.with_suffix(".json")
    if path.parent.name != "shards" or not record.is_file():
        return None
    told: dict[str, Any] = json.loads(record.read_text())
    return told if "url" in told and "images" in told else None


def ensure(path: Path) -> None:
    """Fetch a shard again that was removed to make room; any other file is left to whoever opens it."""
    if not path.is_file() and (told := fetched_record(path)) is not None:
        fetch(told["url"], path)


def read_member(path: Path, offset: int, size: int) -> bytes:
    for _ in range(3):  # it may be removed between fetching and opening
        try:
            with path.open("rb") as stream:
                caches.touch(path)
                stream.seek(offset)
                return stream.read(size)
        except FileNotFoundError:
            ensure(path)
    raise SourceError(f"{path}: removed as often as it is fetched; raise {caches.LIMIT}")


def fetch(url: str, target: Path) -> None:
    """Download a shard into the cache unless it is there, within the limit of what may be kept."""
    if not url.startswith(("https://", "http://")):
        raise DataError(f"{url}: shards come from https or http addresses, or files")
    with caches.alone(target.with_name(f".{target.name}.lock")):
        if target.is_file():
            return
        for pause_s in (*PAUSES_S, None):
            try:
                download(url, target)
                return
            except JepackError:
                raise
            except (OSError, ValueError, http.client.HTTPException) as error:
                lasting = isinstance(error, urllib.error.HTTPError) and error.code < 500
                if pause_s is None or lasting or getattr(error, "errno", 0) == errno.ENOSPC:
                    raise SourceError(f"{url}: cannot be fetched ({error})") from error
                time.sleep(pause_s)


def download(url: str, target: Path) -> None:
    partial = target.with_name(f".{target.name}.partial")
    try:
        with loopback.open_url(url, 60) as answer, partial.open("wb") as stream:
            length = answer.headers.get("Content-Length")
            if length is not None and (missing := caches.make_room(int(length))) is not None:
                raise SourceError(
                    f"{url}: {int(length) / 1e9:.3g} GB, {missing / 1e9:.3g} GB more than "
                    f"{caches.LIMIT} leaves. Raise it, or make smaller shards"
                )
            shutil.copyfileobj(answer, stream, 1 << 20)
            stream.flush()
            fsync(stream.fileno())
        if length is not None and int(length) != partial.stat().st_size:
            raise OSError(f"cut short at {partial.stat().st_size} of {length} bytes")
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


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
                # `a.png` before `a.mask.png`: the shortest ending is the picture's own.
                endings = sorted(sample, key=lambda ending: ending.count("."))
                picture = next(
                    (sample[s] for s in endings if f".{s.rpartition('.')[2]}" in SUFFIXES), None
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
