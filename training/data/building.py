"""Building the cache: decode every image once, within the disk there is, and go on after a stop."""

from __future__ import annotations

import base64
import errno
import functools
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jepack.decoding import Window
from jepack.disk import disk_error, existing_parent
from jepack.errors import DataError, SourceError, listed
from jepack.files import fsync_file, fsync_folder, write_json
from jepack.sources import ENDED, ImageFile, caches, in_blocks
from training.data.content import WHOLE, Grids
from training.data.decoded import decode_file

FORMAT = 4
SPARE_BYTES = 256 << 20  # left free on the disk

MENDS = (
    "Free some space (`jepack cache` shows what old caches take), keep a smaller --set cache_side, set "
    "JEPACK_CACHE to another disk, or train without a cache: --stream. What is done is continued."
)

Progress = Callable[[int, int], None]


def build_cache(
    folder: Path,
    files: Sequence[ImageFile],
    side: int,
    channels: int,
    window: Window,
    crop_mode: str,
    max_bad: float,
    workers: int,
    on_progress: Progress | None,
    data: str = "",
) -> None:
    """Write `folder`. What a stopped build had done is kept beside it and continued."""
    partial = folder.with_name(f".{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    try:
        entries = decode_all(
            partial, files, side, channels, window, crop_mode, workers, on_progress
        )
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(disk_is_full(partial)) from error
        raise disk_error(error, folder) from error
    try:
        named = [
            (file.name, entry["bad"])
            for file, entry in zip(files, entries, strict=True)
            if "bad" in entry
        ]
        refuse_too_many_bad(named, len(files), max_bad)
    except DataError:
        shutil.rmtree(partial)
        raise
    if any("mask" in entry for entry in entries):
        np.save(partial / "masks.npy", masks_of(entries))
        fsync_file(partial / "masks.npy")
    write_json(partial / "index.json", index_of(files, entries, side, channels))
    write_json(partial / "about.json", {"data": data, "images": len(files), "side": side})
    (partial / caches.IN_USE).touch()
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
    crop_mode: str,
    workers: int,
    on_progress: Progress | None,
) -> list[dict[str, Any]]:
    """One entry per image, in order: {"shape", "sha"} or {"bad": reason}."""
    entries, used = done_already(partial, channels)
    todo = files[len(entries) :]
    work = functools.partial(
        decoded, side=side, channels=channels, window=window, crop_mode=crop_mode
    )
    with (
        (partial / "pixels.bin").open("ab") as pixels_file,
        (partial / "done.jsonl").open("a") as list_file,
    ):
        for made in in_blocks(todo, work, ended, workers):
            pixels_file.writelines(pixels for _, pixels in made)
            used += sum(len(pixels) for _, pixels in made)
            entries += (entry for entry, _ in made)
            pixels_file.flush()  # before the list, which is what a later start believes
            list_file.writelines(json.dumps(entry) + "\n" for entry, _ in made)
            list_file.flush()
            check_disk(partial, used, len(entries), len(files))
            if on_progress:
                on_progress(len(entries), len(files))
    return entries


def ended(file: ImageFile) -> tuple[dict[str, Any], bytes]:
    """As `decoded`, of an image at which that ends its process."""
    return {"bad": ENDED}, b""


def decoded(
    file: ImageFile, side: int, channels: int, window: Window, crop_mode: str
) -> tuple[dict[str, Any], bytes]:
    """An image's entry and its pixels. Raises SourceError, at which what is done is kept."""
    try:
        image = decode_file(file, side, channels, window, crop_mode)
    except SourceError:
        raise
    except DataError as error:
        return {"bad": str(error)}, b""
    entry: dict[str, Any] = {"shape": image.pixels.shape[:2], "sha": image.sha}
    if image.box is not None:
        entry["box"] = image.box
    if image.mask is not None:
        entry["mask"] = packed(image.mask)
    return entry, image.pixels.tobytes()


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
    """Refuse before the disk or the limit is full. Raises DataError with what is needed and what there is."""
    needed = used * (total - done) // max(1, done)
    missing = caches.make_room(used + needed, folder.parent, spare=folder)
    if missing is not None:
        raise DataError(
            f"{folder.parent}: this cache takes about {(used + needed) / 1e9:.3g} GB, "
            f"{missing / 1e9:.3g} GB more than {caches.LIMIT} leaves. Raise it, keep a smaller "
            "--set cache_side, or train without a cache: --stream. What is done is continued."
        )
    free = shutil.disk_usage(existing_parent(folder)).free
    if needed + SPARE_BYTES > free and done < total:
        raise DataError(
            f"{folder.parent}: decoding the other {total - done} images needs about {needed / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free. {MENDS}"
        )


def disk_is_full(folder: Path) -> str:
    free = shutil.disk_usage(existing_parent(folder)).free
    return f"{folder.parent}: the disk is full ({free / 1e6:.0f} MB free). {MENDS}"


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


def packed(mask: Grids) -> str:
    """A grid as text for the list of what is done."""
    return base64.b64encode(zlib.compress(mask.tobytes(), 1)).decode()


def masks_of(entries: list[dict[str, Any]]) -> Grids:
    """[N, G, G] of the readable images; those without a mask count as a whole."""

    def one(entry: dict[str, Any]) -> Grids:
        if "mask" not in entry:
            return WHOLE
        data = zlib.decompress(base64.b64decode(entry["mask"]))
        return np.frombuffer(data, np.uint8).reshape(WHOLE.shape)

    return np.stack([one(entry) for entry in entries if "bad" not in entry])


def refuse_too_many_bad(bad: Sequence[tuple[str, str]], total: int, max_bad: float) -> None:
    if len(bad) <= max_bad * total and len(bad) < total:
        return
    raise DataError(
        f"{len(bad)} of {total} images cannot be read, the limit is {max_bad:.1%}:\n{listed(bad)}\n"
        "`jepack inspect` lists them all. Mend or remove them, or raise --max-bad."
    )
