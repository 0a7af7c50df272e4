"""The order of streamed images: several shards at a time, mixed, the next one fetched ahead."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jepack.errors import ConfigError, DataError
from jepack.sources import caches, fetching
from training.data.images import Ints

MOST_LANES = 16  # shards that are mixed at a time
UNEVEN = 1.25  # the fullest lane over the emptiest, at most
AHEAD_STEPS = 32  # how early a lane's next shard is fetched


def shards_of(paths: Sequence[Path]) -> dict[Path, Ints] | None:
    """Places in `paths` of each shard; None when not all are shards."""
    if any(path.suffix.lower() != ".tar" for path in set(paths)):
        return None
    shards: dict[Path, list[int]] = {}
    for place, path in enumerate(paths):
        shards.setdefault(path, []).append(place)
    return {path: np.array(places, dtype=np.int64) for path, places in shards.items()}


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
        places = [self.places(lane, step * self.each) for lane in range(len(self.lanes))]
        self.fetch_ahead(step)
        return self.chosen[np.concatenate(places)]

    def places(self, lane: int, first: int) -> Ints:
        """`each` places of a lane's endless order, from its `first` image on."""
        count = sum(len(shard) for shard in self.lanes[lane])
        numbers = np.arange(first, first + self.each)
        chunks = []
        for number in range(first // count, int(numbers[-1]) // count + 1):
            inside = numbers[numbers // count == number] - number * count
            chunks.append(self.one_pass(lane, number)[inside])
        return np.concatenate(chunks)

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
