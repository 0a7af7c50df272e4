"""Images decoded once into a memory-mapped cache of uint8 pixels; building.py fills it.

N images, C channels. Images are shrunk for crops of `side` px, see `shrink`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jepack.decoding import Pixels, Preprocessing, Window, preprocess
from jepack.errors import DataError
from jepack.files import cache_root, canonical_json
from jepack.sources import ImageFile, Source, caches, fetched_record, find_images
from training.data.building import FORMAT, Progress, build_cache
from training.data.content import Grids
from training.data.images import Fetched, Ints, Order, shuffled


@dataclass(frozen=True)
class Cache:
    """Images (see find.py) that lie decoded on disk, ready to be cut into views."""

    folder: Path
    pixels: npt.NDArray[np.uint8]  # every image's bytes, one after the other, memory-mapped
    offsets: npt.NDArray[np.int64]  # [N] first byte of each image
    shapes: npt.NDArray[np.int64]  # [N, 2] height and width, px
    channels: int
    digest: str  # SHA-256 over the readable images' bytes, in order
    files: tuple[ImageFile, ...]
    regions: npt.NDArray[np.int64] | None  # [N, 4] top, left, height, width, px; None without boxes
    bad: Sequence[tuple[str, str]]  # (path, reason) of images that were skipped
    masks: Grids | None = None  # [N, G, G] what matters, see content.py; None without masks
    lock: caches.Hold | None = None  # while it lives, nobody removes the cache

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def listed(self) -> int:
        return len(self) + len(self.bad)

    def __getitem__(self, index: int) -> Pixels:
        """Image `index` as [H, W, C]; a view of the map, no copy."""
        height, width = self.shapes[index]
        start = self.offsets[index]
        flat = self.pixels[start : start + height * width * self.channels]
        return flat.reshape(height, width, self.channels)

    @property
    def outlines(self) -> str:
        shown = hashlib.sha256()
        for part in (self.regions, self.masks):
            shown.update(b"none" if part is None else np.ascontiguousarray(part).data)
        return shown.hexdigest()

    def fetch(
        self, indices: Ints, among: Any = None, pool: ThreadPoolExecutor | None = None
    ) -> Fetched:
        regions = None if self.regions is None else self.regions[indices]
        masks = None if self.masks is None else self.masks[indices]
        images = [self[index] for index in indices.tolist()]
        return Fetched(images, self.shapes[indices], regions, masks, indices)

    def get(self, index: int) -> Pixels | None:
        return self[index]

    def original(self, index: int, among: Any, preprocessing: Preprocessing) -> Pixels:
        """The crop of one image as serving would make it, from the file.

        From the cache where the file can no longer be read: a run does not end for one image at its end.
        """
        try:
            return preprocess.load(self.files[index].read(), preprocessing)
        except DataError:
            return preprocess.crop(self[index], preprocessing)

    def order(
        self, chosen: Ints, images_per_step: int, seed: int, share: slice | None = None
    ) -> Order:
        return shuffled(chosen, images_per_step, seed)


def open_cache(
    data: Source | Path | str,
    *,
    files: Sequence[ImageFile] | None = None,
    side: int,
    channels: int,
    window: Window = None,
    tile: int = 0,
    stride: int = 0,
    crop_mode: str = "center",
    root: Path | None = None,
    max_bad: float = 0.01,
    workers: int = 2,
    on_progress: Progress | None = None,
) -> Cache:
    """The cache of a data set, built on first use. `files`: what find_images gave for it, if known.

    Raises DataError when there are no images or more than `max_bad` of them cannot be read.
    `on_progress(done, total)` is called while building.
    """
    if files is None:
        files = find_images(data, parts=True, tile=tile, stride=stride)
    folder = (root or cache_root()) / f"images-{identity(files, side, channels, window, crop_mode)}"
    while True:
        if not (folder / "index.json").is_file():
            with caches.alone(caches.lock_of(folder)):
                if not (
                    folder / "index.json"
                ).is_file():  # another process may have built it meanwhile
                    build_cache(
                        folder,
                        files,
                        side,
                        channels,
                        window,
                        crop_mode,
                        max_bad,
                        workers,
                        on_progress,
                        str(data),
                    )
        lock = caches.hold(folder)
        if lock is not None:  # else it was removed just now
            return replace(read(folder), lock=lock)


def identity(
    files: Sequence[ImageFile], side: int, channels: int, window: Window, crop_mode: str = "center"
) -> str:
    """16 hex digits that change when a file appears, goes, or is written again."""
    entries: list[Any] = [FORMAT, side, channels, window]
    if crop_mode != "center":  # which goes without saying: earlier caches stay what they are
        entries.append(crop_mode)
    state: dict[Path, Any] = {}
    for file in files:
        for path in (file.path, file.mask):
            if path is not None and path not in state:
                state[path] = state_of(path)
        mask = None if file.mask is None else str(file.mask.absolute())
        entries.append(
            [str(file.path.absolute()), file.part, file.label, file.columns, file.box, mask]
        )
    entries.append(list(state.values()))
    return hashlib.sha256(canonical_json(entries)).hexdigest()[:16]


def state_of(path: Path) -> list[int]:
    """Size and time of a file, or of everything below a folder; zeros when it is missing."""
    if path.suffix == ".tar" and (told := fetched_record(path)) is not None:
        return [told["bytes"], 0]  # whether or not the shard itself is there just now
    try:
        members = (
            [path.stat()] if not path.is_dir() else [p.stat() for p in sorted(path.rglob("*"))]
        )
    except OSError:
        return [0, 0]  # a manifest may name it; decoding says that it is missing
    return [sum(m.st_size for m in members), max((m.st_mtime_ns for m in members), default=0)]


def read(folder: Path) -> Cache:
    index = json.loads((folder / "index.json").read_text())
    shapes = np.array(index["shapes"], dtype=np.int64).reshape(-1, 2)
    sizes = shapes.prod(axis=1) * index["channels"]
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    pixels = np.memmap(folder / "pixels.bin", dtype=np.uint8, mode="r")
    if len(pixels) != sizes.sum():
        raise DataError(f"{folder}: damaged cache; remove it and it is built again")
    masks = folder / "masks.npy"
    columns = (index[name] for name in ("paths", "labels", "parts", "columns"))
    return Cache(
        folder=folder,
        pixels=pixels,
        offsets=offsets.astype(np.int64),
        shapes=shapes,
        channels=index["channels"],
        digest=index["digest"],
        files=tuple(
            ImageFile(Path(path), label, part, told)
            for path, label, part, told in zip(*columns, strict=True)
        ),
        regions=regions_of(index["boxes"], shapes),
        bad=tuple((path, reason) for path, reason in index["bad"]),
        masks=np.load(masks, mmap_mode="r") if masks.is_file() else None,
    )


def regions_of(boxes: list[Any], shapes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
    """Each image's box, the whole image where it has none; None when no image has one."""
    if all(box is None for box in boxes):
        return None
    return np.array(
        [box or [0, 0, *shape] for box, shape in zip(boxes, shapes.tolist(), strict=True)],
        dtype=np.int64,
    )
