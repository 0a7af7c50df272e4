"""Shards from addresses: fetched once into the cache, compared with their record, read by offset."""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import shutil
import time
import urllib.error
from pathlib import Path
from typing import Any

from jepack.errors import DataError, JepackError, SourceError
from jepack.files import cache_root, fsync, sha256_of
from jepack.machine import loopback
from jepack.sources import caches

PAUSES_S = (1.0, 5.0, 20.0)  # between tries to fetch, when the fault may pass


def place_of(url: str) -> Path:
    return cache_root() / "shards" / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.tar"


def fetched_record(path: Path) -> dict[str, Any] | None:
    """What is known of a shard that came from an address; None of any other file, or where it is damaged."""
    if path.parent.name != "shards":
        return None
    try:
        told: Any = json.loads(path.with_suffix(".json").read_text())
    except (OSError, ValueError):
        return None
    known = isinstance(told, dict) and {"url", "bytes", "images"} <= set(told)
    return told if known else None


def ensure(path: Path) -> None:
    """Fetch a shard again that was removed to make room; any other file is left to whoever opens it.

    Raises SourceError where another shard lies at its address by now.
    """
    if path.is_file() or (told := fetched_record(path)) is None:
        return
    fetch(told["url"], path, told)


def check_same(partial: Path, told: dict[str, Any]) -> None:
    """The shard is the one its record lists, by its size and, where that was kept, its SHA-256."""
    size = partial.stat().st_size
    if size == told["bytes"] and told.get("sha256") in (None, sha256_of(partial)):
        return
    record = place_of(told["url"]).with_suffix(".json")
    raise SourceError(
        f"{told['url']}: changed since it was first read ({told['bytes']:,} bytes then, {size:,} now), so "
        f"its images are not where they were. Remove {record} to take it as it is now, in a run of its own"
    )


def read_member(path: Path, offset: int, size: int) -> bytes:
    for _ in range(3):  # it may be removed between fetching and opening
        try:
            with path.open("rb") as stream:
                caches.touch(path)
                stream.seek(offset)
                data = stream.read(size)
        except FileNotFoundError:
            ensure(path)
            continue
        if len(data) < size:
            raise SourceError(f"{path}: shorter than when it was listed; it changed. Start again")
        return data
    raise SourceError(f"{path}: removed as often as it is fetched; raise {caches.LIMIT}")


def fetch(url: str, target: Path, told: dict[str, Any] | None = None) -> None:
    """Download a shard into the cache unless it is there, within the limit of what may be kept.

    `told` is its record where it was there before.
    """
    if not url.startswith(("https://", "http://")):
        raise DataError(f"{url}: shards come from https or http addresses, or files")
    with caches.alone(target.with_name(f".{target.name}.lock")):
        if target.is_file():
            return
        for pause_s in (*PAUSES_S, None):
            try:
                download(url, target, told)
                return
            except JepackError:
                raise
            except (OSError, ValueError, http.client.HTTPException) as error:
                lasting = isinstance(error, urllib.error.HTTPError) and error.code < 500
                if pause_s is None or lasting or getattr(error, "errno", 0) == errno.ENOSPC:
                    raise SourceError(f"{url}: cannot be fetched ({error})") from error
                time.sleep(pause_s)


def download(url: str, target: Path, told: dict[str, Any] | None) -> None:
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
        if told is not None:
            check_same(partial, told)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
