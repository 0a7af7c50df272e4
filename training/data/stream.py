"""Images decoded when a step needs them: no cache, for data sets that no disk should hold twice.

Which images a step sees stays a function of (seed, step) and of the files, so resuming is exact. Anything
but shards is read in the order a cache would be; shards (.tar) are read in lanes, see `Lanes`.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jepack.decoding import Pixels, Preprocessing, Window, preprocess
from jepack.errors import DataError, SourceError
from jepack.files import canonical_json
from jepack.sources import ImageFile, Source, find_images
from training.data.building import refuse_too_many_bad
from training.data.cache import state_of
from training.data.decoded import Decoded, decode_file, gathered
from training.data.images import Fetched, Ints, Order, shuffled
from training.data.lanes import Lanes, check_limit, lanes_of, shards_of


@dataclass(frozen=True)
class Stream:
    """Images (see find.py) that are decoded when they are asked for. `bad` grows as they are met."""

    files: tuple[ImageFile, ...]
    channels: int
    digest: str  # of names, labels and sizes: bytes were not read
    side: int  # px, see `shrink`
    window: Window = None
    crop_mode: str = "center"
    max_bad: float = 0.0
    bad: list[tuple[str, str]] = field(default_factory=list)
    known_bad: set[int] = field(default_factory=set)
    writing: Any = field(default_factory=threading.Lock)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def listed(self) -> int:
        return len(self)  # `bad` are some of these

    @property
    def outlines(self) -> str:
        return hashlib.sha256(
            b"nonenone"
        ).hexdigest()  # as a cache without any: they come with the images

    def __getitem__(self, index: int) -> Pixels:
        return self._decoded(index, np.arange(len(self)))[0].pixels

    def fetch(
        self, indices: Ints, among: Any = None, pool: ThreadPoolExecutor | None = None
    ) -> Fetched:
        among = indices if among is None else among

        def one(index: int) -> tuple[Decoded, int]:
            return self._decoded(index, among)

        wanted = indices.tolist()
        pairs = list(map(one, wanted) if pool is None else pool.map(one, wanted))
        decoded = [image for image, _ in pairs]
        shapes = np.array([image.pixels.shape[:2] for image in decoded], dtype=np.int64)
        used = np.array([index for _, index in pairs], dtype=np.int64)
        return Fetched([image.pixels for image in decoded], shapes, *gathered(decoded), used)

    def get(self, index: int) -> Pixels | None:
        image = self._try(index)
        return None if image is None else image.pixels

    def original(self, index: int, among: Any, preprocessing: Preprocessing) -> Pixels:
        """The crop as serving would make it; for one that cannot be read, the next of `among` that can."""
        _, used = self._decoded(index, among)
        return preprocess.load(self.files[used].read(), preprocessing)

    def order(
        self, chosen: Ints, images_per_step: int, seed: int, share: slice | None = None
    ) -> Order:
        paths = [self.files[index].path for index in chosen.tolist()]
        by_shard = shards_of(paths)
        lanes = [] if by_shard is None else lanes_of(list(by_shard.values()), images_per_step, seed)
        if not lanes:
            return shuffled(chosen, images_per_step, seed)
        check_limit(paths, len(lanes))
        return Lanes(
            lanes, chosen, paths, share or slice(0, images_per_step), images_per_step, seed
        )

    def _decoded(self, index: int, among: Any) -> tuple[Decoded, int]:
        for candidate in substitutes(index, among):
            image = self._try(candidate)
            if image is not None:
                return image, candidate
        raise DataError(f"{self.files[index].name}: neither it nor one in its place can be read")

    def _try(self, index: int) -> Decoded | None:
        if index in self.known_bad:
            return None
        try:
            return decode_file(
                self.files[index], self.side, self.channels, self.window, self.crop_mode
            )
        except SourceError:
            raise
        except DataError as error:
            self._note(index, str(error))
            return None

    def _note(self, index: int, reason: str) -> None:
        with self.writing:
            if index not in self.known_bad:
                self.known_bad.add(index)
                self.bad.append((self.files[index].name, reason))
        refuse_too_many_bad(self.bad, len(self), self.max_bad)


def open_stream(
    data: Source | Path | str,
    *,
    files: Sequence[ImageFile] | None = None,
    side: int,
    channels: int,
    window: Window = None,
    tile: int = 0,
    stride: int = 0,
    crop_mode: str = "center",
    max_bad: float = 0.01,
) -> Stream:
    """A data set to be read as training goes. `files`: what find_images found in it, where that is known.

    Raises DataError when it is empty.
    """
    source = Source.of(data)
    if files is None:
        files = find_images(source, parts=True, tile=tile, stride=stride)
    sizes = {path: state_of(path)[0] for path in {file.path for file in files}}
    told = [[file.name_below(source.base), file.label, sizes[file.path]] for file in files]
    digest = "names-" + hashlib.sha256(canonical_json(told)).hexdigest()
    return Stream(tuple(files), channels, digest, side, window, crop_mode, max_bad)


def substitutes(index: int, among: Any) -> Iterator[int]:
    """The index, then those of `among` that follow it, round to the start."""
    yield index
    others = np.unique(among)
    start = int(np.searchsorted(others, index, side="right"))
    for other in np.roll(others, -start).tolist():
        if other != index:
            yield other
