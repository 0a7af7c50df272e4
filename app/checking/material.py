"""What every check reads: an index's vectors, labels and neighbours, each once.

N images, D dimensions, L neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from app.store import VectorStore
from jepack.measures import unit

LADDER = 32  # neighbours of each image
BLOCK = 1024  # images that ask at once

Floats = npt.NDArray[np.floating[Any]]
Whole = npt.NDArray[np.int64]
Progress = Callable[[float], None]  # called with the share that is done


@dataclass(frozen=True, eq=False)
class Material:
    """The stored side of an index, in stored order."""

    ids: list[str]
    labels: list[str | None]
    raw_ND: npt.NDArray[np.float32]  # as they are stored
    vectors_ND: npt.NDArray[np.float32]  # at unit length
    at_NL: Whole  # neighbours, nearest first, never the image itself
    far_NL: Floats  # their cosine distances

    @cached_property
    def place(self) -> dict[str, int]:
        return {name: at for at, name in enumerate(self.ids)}

    @cached_property
    def codes_N(self) -> Whole:
        """A number per label, -1 for none."""
        at = {name: number for number, name in enumerate(self.classes)}
        return np.array([at[one] if one else -1 for one in self.labels], np.int64)

    @cached_property
    def classes(self) -> list[str]:
        return sorted({one for one in self.labels if one})


def gather(store: VectorStore, on_progress: Progress = lambda share: None) -> Material:
    """Every vector compared with every other."""
    ids, labels, parts = [], list[str | None](), []
    for names, own, vectors_BD in store.vectors():
        ids += names
        labels += own
        parts.append(vectors_BD)
    raw_ND = np.concatenate(parts).astype(np.float32)
    vectors_ND = unit(raw_ND)
    at_NL, far_NL = ladder(vectors_ND, on_progress)
    return Material(ids, labels, raw_ND, vectors_ND, at_NL, far_NL)


def ladder(vectors_ND: Floats, on_progress: Progress) -> tuple[Whole, Floats]:
    """(neighbours, distances) [N, L]; L is less than LADDER in a small index."""
    count = len(vectors_ND)
    most = max(0, min(LADDER, count - 1))
    at_NL, far_NL = np.zeros((count, most), np.int64), np.zeros((count, most), np.float32)
    for start in range(0, count if most else 0, BLOCK):
        asking = np.arange(start, min(start + BLOCK, count))
        far = 1 - vectors_ND[asking] @ vectors_ND.T
        far[np.arange(len(asking)), asking] = np.inf
        near = np.argpartition(far, most - 1, axis=1)[:, :most]
        order = np.argsort(np.take_along_axis(far, near, axis=1), axis=1, kind="stable")
        at_NL[asking] = np.take_along_axis(near, order, axis=1)
        far_NL[asking] = np.maximum(0, np.take_along_axis(far, at_NL[asking], axis=1))
        on_progress(asking[-1] / count)
    return at_NL, far_NL
