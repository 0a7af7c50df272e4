"""Which patches I-JEPA shows and which it asks for (arXiv:2301.08243, section 3).

G images of the whole step (all ranks), K patches, H x W the grid of patches. All masks of a step are
drawn at once from (seed, step), so neither resuming nor the number of ranks changes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.data import Ints

Bools = npt.NDArray[np.bool_]

TARGETS = 4
TARGET_SCALE = (0.15, 0.2)  # share of the grid
TARGET_ASPECT = (0.75, 1.5)  # height over width
CONTEXT_SCALE = (0.85, 1.0)
MIN_CONTEXT = 10  # patches
TRIES = 20  # before MIN_CONTEXT is lowered
MIN_GRID = 6  # patches a side: on fewer, four targets leave next to no context


@dataclass(frozen=True)
class Masks:
    """Patch numbers (row * W + column) of every image."""

    context: Ints  # [G, Kc], ascending
    targets: Ints  # [TARGETS, G, Kt], row by row

    def images(self, start: int, stop: int) -> Masks:
        return Masks(self.context[start:stop], self.targets[:, start:stop])


def draw_masks(images: int, grid: tuple[int, int], *, seed: int, step: int) -> Masks:
    """Masks of a step: one target size and one context size for all images, places per image.

    A context block never holds a patch of the image's targets. Images whose context would have fewer
    than MIN_CONTEXT patches are placed again; after every TRIES attempts two patches fewer will do.
    All contexts are then cut to the smallest one; what goes is chosen at random, because cutting the
    end would hide the bottom rows more often.
    """
    if min(grid) < MIN_GRID:
        raise ValueError(f"a grid needs at least {MIN_GRID} x {MIN_GRID} patches, found {grid}")
    generator = np.random.default_rng([seed, 4, step])
    target = block_size(generator, grid, TARGET_SCALE, TARGET_ASPECT)
    context = block_size(generator, grid, CONTEXT_SCALE, (1.0, 1.0))
    targets = np.zeros((TARGETS, images, target[0] * target[1]), dtype=np.int64)
    seen = np.zeros((images, grid[0] * grid[1]), dtype=bool)
    pending = np.arange(images)
    attempt = 0
    while len(pending):
        needed = max(1, MIN_CONTEXT - 2 * (attempt // TRIES))
        places = np.stack([place(generator, len(pending), grid, target) for _ in range(TARGETS)])
        free = cover(place(generator, len(pending), grid, context), grid)
        for block in places:
            free &= ~cover(block, grid)
        good = free.sum(axis=1) >= needed
        targets[:, pending[good]] = places[:, good]
        seen[pending[good]] = free[good]
        pending = pending[~good]
        attempt += 1
    return Masks(cut_to_smallest(generator, seen), targets)


def block_size(
    generator: np.random.Generator,
    grid: tuple[int, int],
    scale: tuple[float, float],
    aspect: tuple[float, float],
) -> tuple[int, int]:
    """(height, width) in patches, at least 1 and at most the grid."""
    area = grid[0] * grid[1] * generator.uniform(*scale)
    ratio = generator.uniform(*aspect)
    height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    return min(max(1, height), grid[0]), min(max(1, width), grid[1])


def place(
    generator: np.random.Generator, count: int, grid: tuple[int, int], size: tuple[int, int]
) -> Ints:
    """[count, K] patch numbers of blocks of this size, anywhere in the grid."""
    top = generator.integers(0, grid[0] - size[0] + 1, count)
    left = generator.integers(0, grid[1] - size[1] + 1, count)
    inside = (np.arange(size[0])[:, None] * grid[1] + np.arange(size[1])).ravel()
    return (top * grid[1] + left)[:, None] + inside


def cover(blocks: Ints, grid: tuple[int, int]) -> Bools:
    """Patch numbers [G, K] -> membership [G, H * W]."""
    covered = np.zeros((len(blocks), grid[0] * grid[1]), dtype=bool)
    np.put_along_axis(covered, blocks, True, axis=1)
    return covered


def cut_to_smallest(generator: np.random.Generator, seen: Bools) -> Ints:
    """[G, Kc]: as many patches of every image as the image with the fewest has."""
    keep = int(seen.sum(axis=1).min())
    order = np.where(seen, generator.random(seen.shape), 2.0)
    return np.sort(np.argpartition(order, keep - 1, axis=1)[:, :keep], axis=1)
