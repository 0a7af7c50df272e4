"""What training asks of its images: decoded in a cache (cache.py), or read as it goes (stream.py).

N images, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from jepack.decoding import Pixels, Preprocessing
from jepack.sources import ImageFile
from training.data.content import Grids

Ints = npt.NDArray[np.int64]
Order = Callable[[int], Ints]  # step -> indices of its images, over all ranks


@dataclass(frozen=True)
class Fetched:
    """Some images of a data set, ready to be cut."""

    images: list[Pixels]  # B of them, [H, W, C]
    shapes: Ints  # [B, 2] height and width, px
    regions: Ints | None  # [B, 4] top, left, height, width, px
    masks: Grids | None  # [B, G, G]
    indices: Ints  # [B] which images they are
    inside: Ints | None = None  # [B, 4] as regions: the image within its pixels; None = all of them


class Images(Protocol):
    """The images of a run, numbered from 0 in the order they were found."""

    @property
    def files(self) -> Sequence[ImageFile]: ...

    @property
    def channels(self) -> int: ...

    @property
    def digest(self) -> str:
        """Of their bytes; of names and sizes where they are not read."""

    @property
    def outlines(self) -> str:
        """SHA-256 of the boxes and masks that were known before the first step."""

    @property
    def bad(self) -> Sequence[tuple[str, str]]:
        """(path, reason) of images that cannot be read; a stream meets them on its way."""

    @property
    def listed(self) -> int:
        """The images that the data set names, those that cannot be read among them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Pixels:
        """Image `index` as [H, W, C], or one in its place."""

    def get(self, index: int) -> Pixels | None:
        """Image `index`; None when it cannot be read."""

    def fetch(
        self, indices: Ints, among: Any = None, pool: ThreadPoolExecutor | None = None
    ) -> Fetched:
        """The images of these indices; for one that cannot be read, the next of `among` that can.

        Raises DataError when too many of all images cannot be read.
        """

    def original(self, index: int, among: Any, preprocessing: Preprocessing) -> Pixels:
        """The crop of one image as serving would make it, from its file."""

    def order(
        self, chosen: Ints, images_per_step: int, seed: int, share: slice | None = None
    ) -> Order:
        """Which of the `chosen` images each step sees. `share` of a step is this rank's; None = all."""


def shuffled(chosen: Ints, images_per_step: int, seed: int) -> Order:
    """Epoch after epoch of the `chosen` images, each in an order of its own."""

    def indices(step: int) -> Ints:
        return chosen[images_of_step(len(chosen), images_per_step, step, seed)]

    return indices


def images_of_step(count: int, images_per_step: int, step: int, seed: int) -> Ints:
    """Indices of one step: the stream of shuffled epochs, cut every `images_per_step`.

    A pure function of (seed, step): resuming at a step needs no sampler state.
    """
    first = step * images_per_step
    epochs = range(first // count, (first + images_per_step - 1) // count + 1)
    stream = np.concatenate([epoch_order(count, seed, epoch) for epoch in epochs])
    start = first - epochs[0] * count
    return stream[start : start + images_per_step]


@lru_cache(maxsize=4)  # drawn once per epoch, not at every step; the step between two needs both
def epoch_order(count: int, seed: int, epoch: int) -> Ints:
    order = np.random.default_rng([seed, 1, epoch]).permutation(count)
    order.flags.writeable = False
    return order
