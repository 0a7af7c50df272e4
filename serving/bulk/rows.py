"""What a run gathers: rows, names that were dealt with, totals."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

KEY_BYTES = 16  # of a name's hash: two of 10^7 names are the same with a probability of 10^-25


@dataclass(frozen=True)
class Rows:
    """What came of some images of a frame, in the order of the listing."""

    frame: int  # number of the frame: frames stand in the order of the listing, and come in any
    names: list[str]
    labels: list[str]  # "" for none
    outputs: dict[str, npt.NDArray[np.float32]]  # [N, D] each
    bad: list[tuple[str, str, str]]  # name, label, reason
    places: list[int] = field(default_factory=list)  # of each name in its frame
    said: dict[str, Any] = field(default_factory=dict)  # {column: Arrow array}, see saying.py
    began_ns: int = 0  # none of these images was read earlier, ns since 1970


def key_of(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=KEY_BYTES).digest()


class Keys:
    """A set of names, 16 bytes each."""

    def __init__(self, names: Iterable[Sequence[str]] = ()) -> None:
        blocks = [self._array(some) for some in names]
        self._keys = np.concatenate([*blocks, self._array(())])
        self._keys.sort()

    def __len__(self) -> int:
        return len(self._keys)

    @staticmethod
    def _array(names: Sequence[str]) -> npt.NDArray[np.bytes_]:
        return np.frombuffer(b"".join(map(key_of, names)), dtype=f"S{KEY_BYTES}")

    def hold(self, names: Sequence[str]) -> list[bool]:
        """Which of these names are done."""
        if not len(self._keys):
            return [False] * len(names)
        asked = self._array(names)
        at = np.minimum(np.searchsorted(self._keys, asked), len(self._keys) - 1)
        found: list[bool] = (self._keys[at] == asked).tolist()
        return found


@dataclass
class Totals:
    """What a store holds."""

    images: int = 0
    bad: int = 0
    reasons: dict[str, str] = field(default_factory=dict)  # of the first bad ones
