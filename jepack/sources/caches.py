"""What jepack keeps for later: decoded images and fetched shards. Listed, bounded, never taken from a user.

Below cache_root(): `images-…` is a cache, `.images-….partial` one being built or stopped, and
`shards/….tar` a shard from an address, which is fetched again when it is gone. Whoever reads a cache holds
a shared lock on its file `in-use`, whoever builds one holds the lock `.images-….lock`.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from jepack.disk import telling
from jepack.errors import ConfigError
from jepack.files import cache_root
from jepack.machine import NoLocksError, is_locked, locks
from jepack.names import kept

LIMIT = "JEPACK_CACHE_LIMIT"  # GB
ELSEWHERE = "Choose a folder on a local disk: JEPACK_CACHE=/some/folder"
IN_USE = "in-use"
TOUCH_S = 60.0

touched: dict[Path, float] = {}


@dataclass(frozen=True)
class Entry:
    """One thing that is kept."""

    path: Path
    kind: str  # images, stopped (a build that can go on) or shard
    bytes: int
    used: float  # seconds since the epoch
    in_use: bool
    about: str  # for people: where the images came from


def limit_bytes() -> int | None:
    """What may be kept in all, from $JEPACK_CACHE_LIMIT in GB; None = as much as the disk holds."""
    text = os.environ.get(LIMIT, "").strip()
    if not text:
        return None
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = -1
    if not 0 < gigabytes < float("inf"):
        raise ConfigError(f"{LIMIT} is a number of GB above 0, found {text!r}")
    return int(gigabytes * 1e9)


def lock_of(folder: Path) -> Path:
    """Held by who builds `folder`, alone."""
    return folder.with_name(f".{folder.name}.lock")


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; another process or thread waits."""
    with telling(path.parent, f"{ELSEWHERE}."):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with locks.alone(path, ELSEWHERE):
        yield


class Hold:
    """A cache in use: as long as this lives, nobody removes it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __del__(self) -> None:
        self.close()


def hold(folder: Path) -> Hold | None:
    """Mark a cache as in use; None when there is no such cache, or not any more."""
    marker = folder / IN_USE
    try:
        try:
            lock = Hold(os.open(marker, os.O_RDWR | os.O_CREAT, 0o644))
        except FileNotFoundError:
            raise
        except OSError:  # somebody else's, or a disk that is only read: its owner prunes
            lock = Hold(os.open(marker, os.O_RDONLY))
        with suppress(NoLocksError):  # then nobody can remove it either
            locks.lock(lock.descriptor, fcntl.LOCK_SH, marker, ELSEWHERE)
        if os.path.samestat(os.fstat(lock.descriptor), marker.stat()):
            with suppress(OSError):
                os.utime(marker)
            return lock
    except FileNotFoundError:
        return None  # removed before, or while we waited
    return None


def touch(path: Path) -> None:
    """Note that a shard is being read, once a minute at most."""
    now = time.monotonic()
    if now - touched.get(path, -TOUCH_S) >= TOUCH_S:
        touched[path] = now
        try:
            os.utime(path)
        except OSError:
            return


def entries(root: Path | None = None) -> list[Entry]:
    """Everything that is kept, the longest unused first."""
    root = root or cache_root()
    cached = []
    for pattern, entry_of in ENTRIES.items():
        for path in root.glob(pattern):
            with suppress(OSError):  # another process removes as well, or it is no cache at all
                cached.append(entry_of(path))
    return sorted(cached, key=lambda entry: entry.used)


def images_entry(folder: Path) -> Entry:
    marker = folder / IN_USE
    used = (marker if marker.is_file() else folder).stat().st_mtime
    return Entry(folder, "images", weight(folder), used, is_locked(marker), summary(folder))


def stopped_entry(folder: Path) -> Entry:
    whole = folder.with_name(folder.name.removeprefix(".").removesuffix(".partial"))
    used = max(path.stat().st_mtime for path in [folder, *folder.iterdir()])
    busy = is_locked(lock_of(whole))
    return Entry(folder, "stopped", weight(folder), used, busy, "a build that was stopped")


def shard_entry(path: Path) -> Entry:
    stat = path.stat()
    return Entry(path, "shard", stat.st_size, stat.st_mtime, False, url_of(path))


ENTRIES = {
    "images-*": images_entry,
    ".images-*.partial": stopped_entry,
    "shards/*.tar": shard_entry,
}


def summary(folder: Path) -> str:
    try:
        about = json.loads((folder / "about.json").read_text())
        return f"{about['images']:,} images of {kept(str(about['data']))}"
    except (OSError, ValueError, KeyError, TypeError):  # a damaged record only leaves this out
        return ""


def url_of(path: Path) -> str:
    try:
        return kept(str(json.loads(path.with_suffix(".json").read_text())["url"]))
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def weight(folder: Path) -> int:
    """Bytes on the disk below a folder."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:
            continue
    return total


def remove(entry: Entry) -> bool:
    """Delete an entry unless it is in use; says whether it is gone."""
    if entry.kind == "shard":
        entry.path.unlink(missing_ok=True)
        return True
    name = entry.path.name
    whole = entry.path.with_name(name.removeprefix(".").removesuffix(".partial"))
    # Both locks, so that nobody can build it or begin to use it meanwhile.
    marker = entry.path / IN_USE
    with lock_of(whole).open("w") as building:
        try:
            fcntl.flock(building, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if entry.kind == "stopped" or not marker.exists():
                return take_away(entry.path)
            with marker.open("r+") as using:
                fcntl.flock(using, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return take_away(entry.path)
        except OSError:
            return False


def take_away(folder: Path) -> bool:
    """Out of the way in one step, then deleted."""
    aside = folder.with_name(f".removed-{folder.name.lstrip('.')}-{os.getpid()}")
    os.replace(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)
    return True


def prune(keep_bytes: int, root: Path | None = None, *, spare: Path | None = None) -> list[Entry]:
    """Remove what was longest unused until at most `keep_bytes` are kept; returns what went.

    What is in use stays, and so does `spare`, which is not counted.
    """
    root = root or cache_root()
    for left in root.glob(".removed-*"):  # of a prune that was killed
        shutil.rmtree(left, ignore_errors=True)
    cached = entries(root)
    total = sum(entry.bytes for entry in cached if entry.path != spare)
    gone = []
    for entry in cached:
        if total <= keep_bytes:
            break
        if entry.in_use or entry.path == spare or not remove(entry):
            continue
        total -= entry.bytes
        gone.append(entry)
    return gone


def make_room(needed: int, root: Path | None = None, *, spare: Path | None = None) -> int | None:
    """Keep to the limit with `needed` bytes to come beside `spare`; how many are missing, None = none.

    Processes that make room at the same time may pass the limit by what they add.
    """
    limit = limit_bytes()
    if limit is None:
        return None
    prune(max(0, limit - needed), root, spare=spare)
    held = sum(entry.bytes for entry in entries(root) if entry.in_use and entry.path != spare)
    missing = held + needed - limit
    return missing if missing > 0 else None
