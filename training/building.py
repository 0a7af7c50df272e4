"""Building the cache: decode every image once, within the disk there is, and go on after a stop."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jepack import preprocess
from jepack.errors import DataError
from jepack.files import disk_error, existing_parent, fsync_file, fsync_folder, write_json
from jepack.images import ImageFile
from jepack.intensity import Window
from jepack.preprocess import Pixels

FORMAT = 2
BLOCK = 64  # images decoded ahead of the writer
SPARE_BYTES = 256 << 20  # left free on the disk

Progress = Callable[[int, int], None]


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Two processes that want the same cache build it once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build(
    folder: Path,
    files: Sequence[ImageFile],
    side: int,
    channels: int,
    window: Window,
    max_bad: float,
    workers: int,
    on_progress: Progress | None,
) -> None:
    """Write `folder`. What a stopped build had done is kept beside it and continued."""
    partial = folder.with_name(f".{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    try:
        entries = decode_all(partial, files, side, channels, window, workers, on_progress)
    except OSError as error:
        raise disk_error(error, folder) from error
    try:
        named = [
            f"{file.name}: {entry['bad']}"
            for file, entry in zip(files, entries, strict=True)
            if "bad" in entry
        ]
        refuse_too_many_bad(named, len(files), max_bad)
    except DataError:
        shutil.rmtree(partial)
        raise
    write_json(partial / "index.json", index_of(files, entries, side, channels))
    (partial / "done.jsonl").unlink()
    fsync_file(partial / "pixels.bin")
    fsync_folder(partial)
    os.replace(partial, folder)
    fsync_folder(folder.parent)


def decode_all(
    partial: Path,
    files: Sequence[ImageFile],
    side: int,
    channels: int,
    window: Window,
    workers: int,
    on_progress: Progress | None,
) -> list[dict[str, Any]]:
    """One entry per image, in order: {"shape", "sha"} or {"bad": reason}."""

    def one(file: ImageFile) -> tuple[dict[str, Any], bytes]:
        try:
            content = file.read()
            whole = preprocess.decode(content, channels, window)
            pixels = shrink(whole, side)
            entry: dict[str, Any] = {
                "shape": pixels.shape[:2],
                "sha": hashlib.sha256(content).hexdigest(),
            }
            if file.box is not None:
                entry["box"] = scaled(file, whole.shape[:2], pixels.shape[:2])
            return entry, pixels.tobytes()
        except (DataError, OSError) as error:
            reason = str(error).removeprefix("image: ").removeprefix(f"{file.name}: ")
            return {"bad": reason.removeprefix(f"{file.path}: ")}, b""

    entries, used = done_already(partial, channels)
    with (
        (partial / "pixels.bin").open("ab") as pixels_file,
        (partial / "done.jsonl").open("a") as list_file,
        ThreadPoolExecutor(max(1, workers)) as pool,
    ):
        # A bounded window: executor.map would decode the whole data set ahead of the writer.
        for start in range(len(entries), len(files), BLOCK):
            for entry, pixels in pool.map(one, files[start : start + BLOCK]):
                pixels_file.write(pixels)
                entries.append(entry)
                used += len(pixels)
            pixels_file.flush()  # before the list, which is what a later start believes
            list_file.writelines(json.dumps(entry) + "\n" for entry in entries[start:])
            list_file.flush()
            check_disk(partial, used, len(entries), len(files))
            if on_progress:
                on_progress(len(entries), len(files))
    return entries


def done_already(partial: Path, channels: int) -> tuple[list[dict[str, Any]], int]:
    """Entries of a stopped build whose pixels are all there, and their bytes; the rest is cut off."""
    entries: list[dict[str, Any]] = []
    used = 0
    listing, pixels = partial / "done.jsonl", partial / "pixels.bin"
    if listing.is_file() and pixels.is_file():
        there = pixels.stat().st_size
        for line in listing.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # cut short by a crash
                break
            size = int(np.prod(entry["shape"])) * channels if "shape" in entry else 0
            if used + size > there:
                break
            entries.append(entry)
            used += size
        os.truncate(pixels, used)
        listing.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return entries, used


def check_disk(folder: Path, used: int, done: int, total: int) -> None:
    """Refuse before the disk is full. Raises DataError with what is needed and what there is."""
    needed = used * (total - done) // max(1, done)
    free = shutil.disk_usage(existing_parent(folder)).free
    if needed + SPARE_BYTES > free and done < total:
        raise DataError(
            f"{folder.parent}: decoding the other {total - done} images needs about {needed / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free. Free some space, keep a smaller --set cache_side, or set "
            "JEPACK_CACHE to another disk; what is done is continued."
        )


def index_of(
    files: Sequence[ImageFile], entries: list[dict[str, Any]], side: int, channels: int
) -> dict[str, Any]:
    kept = [(f, e) for f, e in zip(files, entries, strict=True) if "bad" not in e]
    digest = hashlib.sha256()
    for _, entry in kept:
        digest.update(bytes.fromhex(entry["sha"]))
    return {
        "format": FORMAT,
        "channels": channels,
        "side": side,
        "digest": digest.hexdigest(),
        "shapes": [entry["shape"] for _, entry in kept],
        "boxes": [entry.get("box") for _, entry in kept],
        "paths": [str(file.path) for file, _ in kept],
        "parts": [file.part for file, _ in kept],
        "labels": [file.label for file, _ in kept],
        "columns": [file.columns for file, _ in kept],
        "bad": [[f.name, e["bad"]] for f, e in zip(files, entries, strict=True) if "bad" in e],
    }


def refuse_too_many_bad(reasons: list[str], total: int, max_bad: float) -> None:
    if len(reasons) <= max_bad * total and len(reasons) < total:
        return
    shown = "\n".join(f"  - {reason}" for reason in reasons[:10])
    raise DataError(
        f"{len(reasons)} of {total} images cannot be read, the limit is {max_bad:.1%}:\n{shown}\n"
        "`jepack inspect` lists them all. Mend or remove them, or raise --max-bad."
    )


def scaled(file: ImageFile, before: tuple[int, ...], after: tuple[int, ...]) -> list[int]:
    """The file's box as top, left, height, width in the cached pixels. DataError when it lies outside."""
    assert file.box is not None
    left, top, width, height = file.box
    if left < 0 or top < 0 or left + width > before[1] + 1 or top + height > before[0] + 1:
        raise DataError(f"its box {file.box} leaves the picture of {before[1]} x {before[0]} px")
    y, x = after[0] / before[0], after[1] / before[1]
    return [round(top * y), round(left * x), max(1, round(height * y)), max(1, round(width * x))]


def shrink(pixels_HWC: Pixels, side: int) -> Pixels:
    """Shorter side down to at most `side` px, antialiased; never enlarged."""
    height, width = pixels_HWC.shape[:2]
    scale = side / min(height, width)
    if scale >= 1:
        return pixels_HWC
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    return preprocess.resize(pixels_HWC, rows, columns)
