"""Embeddings in less room: cut, as int8, as bits; and what was measured of each. numpy only.

N images, D dimensions, K of them kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FLOOR = 0.9  # share of the 10 nearest neighbours that a shorter row must keep
NUMBERS = ("int8", "binary")


def cut(x_ND: npt.NDArray[Any], dimensions: int) -> npt.NDArray[Any]:
    """The first K numbers of each row."""
    return x_ND[:, :dimensions]


def int8(x_ND: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """Each row by its own largest magnitude, which becomes 127: cosines stay, lengths do not."""
    x = np.asarray(x_ND, np.float64)
    largest = np.abs(x).max(axis=1, keepdims=True)
    return np.round(127 * x / np.maximum(largest, 1e-300)).astype(np.int8)


def signs(x_ND: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Whether each number is above 0, what bits hold."""
    return np.asarray(x_ND) > 0


def packed(x_ND: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Eight signs a byte, the first in the highest bit, [N, ceil(D / 8)]."""
    return np.packbits(signs(x_ND), axis=1)


def sizes(dimensions: int) -> list[int]:
    """The lengths that are measured: powers of two below D, 8 and more, longest first."""
    return [2**power for power in range(20, 2, -1) if 2**power < dimensions]


@dataclass(frozen=True)
class Kept:
    """Of one output, the share of each image's nearest neighbours that a shorter row finds again."""

    dimensions: Mapping[int, float]  # K: share
    numbers: Mapping[str, float]  # "int8", "binary": share
    images: int  # it was measured on
    neighbours: int = 10
    floor: float = FLOOR

    @classmethod
    def of(cls, measured: Any, output: str) -> Kept | None:
        """From isotropy.json's text, which may be anybody's; None where nothing of use stands there."""
        table = measured.get("shorter") if isinstance(measured, dict) else None
        mine = table.get(output) if isinstance(table, dict) else None
        if not isinstance(mine, dict) or not isinstance(table, dict):
            return None
        lengths, floor = mine.get("dimensions"), table.get("floor", FLOOR)
        images = table.get("images")
        if not (is_share(floor) and type(images) is int and isinstance(lengths, dict)):
            return None
        return cls(
            {int(k): v for k, v in lengths.items() if k.isascii() and k.isdigit() and is_share(v)},
            {name: mine[name] for name in NUMBERS if is_share(mine.get(name))},
            images,
            int(table.get("neighbours", 10)) if type(table.get("neighbours", 10)) is int else 10,
            max(float(floor), FLOOR),
        )

    @property
    def shortest(self) -> int | None:
        """The fewest numbers that keep the floor, with every longer measured cut; None where no cut does."""
        found = None
        for size, share in sorted(self.dimensions.items(), reverse=True):
            if share < self.floor:
                break
            found = size
        return found

    def share_of(self, dimensions: int) -> float | None:
        """What so many numbers keep at least: as much as the longest measured cut no longer than that."""
        below = [size for size in self.dimensions if size <= dimensions]
        return self.dimensions[max(below)] if below else None


def is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1
