"""Two pictures laid over each other: how much of one is left when the other explains it.

At several crops of either, mirrored and turned, because that is how copies are made.

N images, P pairs, S pixels of a side, T small pixels of a side, V crops.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from app.checking.material import Floats, Whole

SMALL = 24  # px of a side
CROPS = (0.95, 0.9, 0.85, 0.8)  # of a side
PLACES = (0.0, 0.5, 1.0)  # of what is cut off: from the left or above
BLOCK = 256  # images whose crops are made at once


def remainder(grey_NSS: npt.NDArray[np.uint8], first_P: Whole, second_P: Whole) -> Floats:
    """[P] 1 - the highest correlation of any crop of the one with the other, any way round; 0 is a
    copy, 1 has
    nothing in common. An even picture has nothing in common with any."""
    turned = turns(normal(crops(grey_NSS, whole_only=True)[:, 0]))
    left = np.ones(len(first_P), np.float32)
    for one_P, other_P in ((first_P, second_P), (second_P, first_P)):
        order = np.argsort(one_P, kind="stable")
        for start in range(0, len(grey_NSS), BLOCK):
            here = order[slice(*np.searchsorted(one_P[order], [start, start + BLOCK]))]
            if not len(here):
                continue
            asked = np.unique(one_P[here])
            cut = normal(crops(grey_NSS[asked]))
            for at, name in zip(here, np.searchsorted(asked, one_P[here]), strict=True):
                likeness = (cut[name] @ turned[other_P[at]].T).max()
                left[at] = min(left[at], 1 - likeness)
    return np.maximum(left, 0)


def crops(grey_NSS: npt.NDArray[np.uint8], *, whole_only: bool = False) -> Floats:
    """[N, V, T, T]: the whole picture, then its crops, each at T x T."""
    rows = cutters(grey_NSS.shape[1])
    rows = rows[:1] if whole_only else rows
    # Every crop has one of the row cutters and one of the column cutters of its size.
    pairs = [(0, 0)] if whole_only else places()
    upright = rows[[one for one, _ in pairs]]
    across = rows[[one for _, one in pairs]]
    values = grey_NSS[:, None].astype(np.float32)
    return np.asarray(upright @ values @ across.transpose(0, 2, 1))


@cache
def places() -> list[tuple[int, int]]:
    """Which row cutter goes with which column cutter."""
    found = [(0, 0)]
    for size in range(len(CROPS)):
        own = [1 + size * len(PLACES) + place for place in range(len(PLACES))]
        found += [(top, left) for top in own for left in own]
    return found


@cache
def cutters(side: int) -> npt.NDArray[np.float32]:
    """[C, T, S]: averages that take a side of `side` px, or a part of it, to T px."""
    spans = [(0.0, 1.0)] + [(place * (1 - size), size) for size in CROPS for place in PLACES]
    made = []
    for start, size in spans:
        edges = (start + size * np.arange(SMALL + 1) / SMALL) * side
        low = np.maximum(np.arange(side), edges[:-1, None])
        high = np.minimum(np.arange(side) + 1, edges[1:, None])
        share = np.maximum(0, high - low)
        made.append(share / share.sum(axis=1, keepdims=True))
    return np.array(made, np.float32)


def normal(values: Floats) -> Floats:
    """[..., T * T] with mean 0 and length 1; all zeros for what is even."""
    flat = values.reshape(*values.shape[:-2], -1).astype(np.float32)
    flat = flat - flat.mean(axis=-1, keepdims=True)
    length = np.linalg.norm(flat, axis=-1, keepdims=True)
    return np.asarray(np.where(length > SMALL * 1.5, flat / np.maximum(length, 1e-9), 0))


def turns(flat_NT: Floats) -> Floats:
    """[N, 8, T * T]: every way round a picture can be."""
    picture = flat_NT.reshape(-1, SMALL, SMALL)
    ways = [
        np.rot90(one, turn, axes=(1, 2))
        for one in (picture, picture[:, :, ::-1])
        for turn in range(4)
    ]
    return np.stack([way.reshape(len(flat_NT), -1) for way in ways], axis=1)
