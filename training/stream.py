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
from jepack.errors import ConfigError, DataError, SourceError
from jepack.files import canonical_json
from jepack.sources import ImageFile, Source, caches, fetching, find_images
from training.building import refuse_too_many_bad
from training.data import state_of
from training.decoding import Decoded, decode_file, gathered
from training.images import Fetched, Ints, Order, shuffled

MOST_LANES = 16  # shards that are mixed at a time
UNEVEN = 1.25  # the fullest lane over the emptiest, at most
AHEAD_STEPS = 32  # how early a lane's next shard is fetched


@dataclass(frozen=True)
class Stream:
    """Images (see find.py) that are decoded when they are asked for. `bad` grows as they are met."""

    files: tuple[ImageFile, ...]
    channels: int
    digest: str  # of names, labels and sizes: bytes were not read
    side: int  # px, of the shorter side at most
    window: Window = None
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
        found = list(map(one, wanted) if pool is None else pool.map(one, wanted))
        decoded = [image for image, _ in found]
        shapes = np.array([image.pixels.shape[:2] for image in decoded], dtype=np.int64)
        used = np.array([index for _, index in found], dtype=np.int64)
        return Fetched([image.pixels for image in decoded], shapes, *gathered(decoded), used)

    def get(self, index: int) -> Pixels | None:
        found = self._try(index)
        return None if found is None else found.pixels

    def original(self, index: int, among: Any, look: Preprocessing) -> Pixels:
        """The crop as serving would make it; for one that cannot be read, the next of `among` that can."""
        _, used = self._decoded(index, among)
        return preprocess.load(self.files[used].read(), look)

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
            found = self._try(candidate)
            if found is not None:
                return found, candidate
        raise DataError(f"{self.files[index].name}: neither it nor one in its place can be read")

    def _try(self, index: int) -> Decoded | None:
        if index in self.known_bad:
            return None
        try:
            return decode_file(self.files[index], self.side, self.channels, self.window)
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
    return Stream(tuple(files), channels, digest, side, window, max_bad)


def substitutes(index: int, among: Any) -> Iterator[int]:
    """The index, then those of `among` that follow it, round to the start."""
    yield index
    others = np.unique(among)
    start = int(np.searchsorted(others, index, side="right"))
    for other in np.roll(others, -start).tolist():
        if other != index:
            yield other


def shards_of(paths: Sequence[Path]) -> dict[Path, Ints] | None:
    """Places in `paths` of each shard; None when not all are shards."""
    if any(path.suffix.lower() != ".tar" for path in set(paths)):
        return None
    found: dict[Path, list[int]] = {}
    for place, path in enumerate(paths):
        found.setdefault(path, []).append(place)
    return {path: np.array(places, dtype=np.int64) for path, places in found.items()}


def lanes_of(by_shard: list[Ints], images_per_step: int, seed: int) -> list[list[Ints]]:
    """Shards dealt to as many lanes as divide a step and hold about as much each; [] when none do."""
    shuffled = np.random.default_rng([seed, 8]).permutation(len(by_shard))
    largest_first = sorted(shuffled.tolist(), key=lambda number: -len(by_shard[number]))
    for count in range(min(MOST_LANES, len(by_shard)), 1, -1):
        if images_per_step % count:
            continue
        lanes: list[list[Ints]] = [[] for _ in range(count)]
        held = [0] * count
        for number in largest_first:
            emptiest = held.index(min(held))
            lanes[emptiest].append(by_shard[number])
            held[emptiest] += len(by_shard[number])
        if max(held) <= UNEVEN * min(held):
            return lanes
    return []


def check_limit(paths: Sequence[Path], lanes: int) -> None:
    """Refuse a limit under which the lanes would throw out each other's shards."""
    limit = caches.limit_bytes()
    sizes = [told["bytes"] for path in set(paths) if (told := fetching.fetched_record(path))]
    if limit is None or not sizes:
        return
    needed = (2 * lanes) * max(sizes)  # what they read, and what comes next
    if needed > limit:
        raise ConfigError(
            f"{lanes} shards are read at a time and as many fetched ahead, {needed / 1e9:.3g} GB; "
            f"{caches.LIMIT} allows {limit / 1e9:.3g}. Raise it, or make smaller shards"
        )


class Lanes:
    """The order of a stream of shards: every step takes as many images from each lane.

    A shard belongs to one lane for the whole run. A lane passes over its shards one by one, in a new order
    each time, and over the images of a shard in a new order too. Ranks take the lanes one after the
    other, so each reads its own shards where their number divides the lanes'.
    """

    def __init__(
        self,
        lanes: list[list[Ints]],
        chosen: Ints,
        paths: list[Path],
        share: slice,  # of a step, this rank's: whose shards are fetched ahead
        images_per_step: int,
        seed: int,
    ) -> None:
        self.lanes, self.chosen, self.paths = lanes, chosen, paths
        self.share, self.seed = share, seed
        self.each = images_per_step // len(lanes)
        self.passes: dict[int, tuple[int, Ints]] = {}  # lane: its pass and that pass's order
        self.asked: set[Path] = set()

    def __call__(self, step: int) -> Ints:
        """Indices of a step's images, lane after lane."""
        found = [self.places(lane, step * self.each) for lane in range(len(self.lanes))]
        self.fetch_ahead(step)
        return self.chosen[np.concatenate(found)]

    def places(self, lane: int, first: int) -> Ints:
        """`each` places of a lane's endless order, from its `first` image on."""
        count = sum(len(shard) for shard in self.lanes[lane])
        numbers = np.arange(first, first + self.each)
        parts = []
        for number in range(first // count, int(numbers[-1]) // count + 1):
            inside = numbers[numbers // count == number] - number * count
            parts.append(self.one_pass(lane, number)[inside])
        return np.concatenate(parts)

    def one_pass(self, lane: int, number: int) -> Ints:
        if self.passes.get(lane, (-1, None))[0] != number:
            generator = np.random.default_rng([self.seed, 7, lane, number])
            shards = self.lanes[lane]
            order = [generator.permutation(shards[n]) for n in generator.permutation(len(shards))]
            self.passes[lane] = number, np.concatenate(order)
        return self.passes[lane][1]

    def fetch_ahead(self, step: int) -> None:
        """Begin to fetch, in the background, the shards this rank's lanes come to next."""
        mine = range(self.share.start // self.each, -(-self.share.stop // self.each))
        for lane in mine:
            count = sum(len(shard) for shard in self.lanes[lane])
            place = (step + AHEAD_STEPS) * self.each
            if place // count != step * self.each // count:
                continue  # the next pass decides its order when it comes
            path = self.paths[int(self.one_pass(lane, place // count)[place % count])]
            if path.is_file() or path in self.asked:
                continue
            self.asked.add(path)
            threading.Thread(target=self._fetch, args=(path,), daemon=True).start()

    def _fetch(self, path: Path) -> None:
        try:
            fetching.ensure(path)
        except DataError:
            pass  # who reads it is told
        finally:
            self.asked.discard(path)
