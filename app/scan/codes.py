"""Vectors in eight bits, and how far a similarity computed from them can be wrong: a bound that is proved.

A row x (length 1) is kept as its offset from a mean in whole steps, a query q asks with p = q - mean in
whole steps of its own:

    x = mean + step * code + error          code [D] in -127..127, step [D]
    p * step = turn * ask + rest            ask [D] in -127..127, turn a number

    q.x = q.mean + base + turn * (ask . code) + rest . code + p . error,     base = mean . (x - mean)

The last two terms are left out; by Cauchy-Schwarz they are at most |rest| |code| + |p| |error|. Offsets from
the mean, because vectors of many encoders lie in a narrow cone: the bound shrinks with it.

N rows, B rows of a block, D dimensions, Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jepack.measures import unit

TOP = 127  # the largest code
ROOM = 1.05  # the steps reach a little beyond the sample they are made from
ROUNDING = 2e-6  # of a similarity in float32, whatever computes it
LARGEST = 2**28  # of a base or a bound in turns: their sum with a product stays below 2**31
LONGEST = 4.0  # a bound is shorter: no offset of two unit vectors is longer than 2
Floats = npt.NDArray[np.float32]
Turns = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Book:
    """How vectors become codes."""

    mean_D: Floats
    step_D: Floats

    @classmethod
    def of(cls, sample_BD: npt.NDArray[Any]) -> Book:
        """Made for vectors like these; of others the error is larger, and the bound with it."""
        x = unit(np.asarray(sample_BD, np.float64))
        mean = x.mean(axis=0).astype(np.float32)
        step = np.abs(x - mean).max(axis=0) * (ROOM / TOP)
        return cls(mean, np.where(step > 0, step, 1.0).astype(np.float32))

    def encode(self, vectors_BD: npt.NDArray[Any]) -> Rows:
        """Of any length but zero."""
        offset = unit(np.asarray(vectors_BD, np.float64)) - self.mean_D
        code = np.clip(np.rint(offset / self.step_D), -TOP, TOP)
        return Rows(
            code.astype(np.int8),
            (offset @ self.mean_D).astype(np.float32),
            above(np.linalg.norm(offset - code * self.step_D, axis=1)),
            above(np.linalg.norm(code, axis=1)),
        )

    def ask(self, vectors_QD: npt.NDArray[Any], base_most: float) -> Asking:
        """Queries that share one turn; `base_most`: the largest |base| of the rows they ask among."""
        offset = unit(np.asarray(vectors_QD, np.float64)) - self.mean_D
        scaled = offset * self.step_D
        turn = max(np.abs(scaled).max() / TOP, max(base_most, LONGEST) / LARGEST)
        code = np.clip(np.rint(scaled / turn), -TOP, TOP)
        return Asking(
            code.astype(np.int8),
            float(turn),
            float(np.linalg.norm(scaled - turn * code, axis=1).max()),
            float(np.linalg.norm(offset, axis=1).max()),
        )


@dataclass(frozen=True)
class Rows:
    """Rows in codes, and what the bound needs of each."""

    code: npt.NDArray[np.int8]  # [N, D]
    base: Floats  # [N]
    error: Floats  # [N]
    length: Floats  # [N], |code|

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, at: Any) -> Rows:
        return Rows(self.code[at], self.base[at], self.error[at], self.length[at])


@dataclass(frozen=True)
class Asking:
    """Queries in codes."""

    code: npt.NDArray[np.int8]  # [Q, D]
    turn: float
    rest: float  # the largest |rest|
    length: float  # the largest |p|

    def __len__(self) -> int:
        return len(self.code)

    def levels(self, rows: Rows) -> tuple[Turns, Turns]:
        """(base, bound) [N] in turns; the similarity of any of these queries with a row is within
        ask . code + base ± bound, less the query's own with the mean."""
        bound = self.rest * rows.length + self.length * rows.error + ROUNDING
        base = np.rint(rows.base / self.turn).astype(np.int32)
        return base, (bound / self.turn).astype(np.int32) + 2  # one for each rounding


def above(values: npt.NDArray[np.float64]) -> Floats:
    """In float32, never smaller than they are."""
    return np.nextafter(values.astype(np.float32), np.float32(np.inf))
