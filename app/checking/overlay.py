"""Two pictures laid over each other: how much of one is left when the other explains it.

At several crops of either, mirrored and turned, because that is how copies are made.

N images, P pairs, S pixels of a side, T small pixels of a side, V crops.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from app.checking.material import Floats, Progress, Whole

SMALL = 24  # px of a side
CROPS = (0.95, 0.9, 0.85, 0.8)  # of a side
PLACES = (0.0, 0.5, 1.0)  # of what is cut off: from the left or above
EVEN = 2.5  # grey levels of 255 that a picture must spread by: white ice has no features to compare
BLOCK = 128  # images whose crops are made at once


def remainder(
    grey_NSS: npt.NDArray[np.uint8],
    pairs_P2: Whole,
    on_progress: Progress = lambda share: None,
) -> Floats:
    """[P] 1 - the highest correlation of any crop of the one with the other, any way round; 0 is a
    copy, 1 has nothing in common. An even picture has nothing in common with any."""
    count = len(grey_NSS)
    small_NT = normal(wholes(grey_NSS))
    low_P, high_P = np.sort(pairs_P2, axis=1).T
    once, places_P = np.unique(low_P * count + high_P, return_inverse=True)
    pairs = np.stack(np.divmod(once, count))
    left = np.ones(len(once), np.float32)
    for number, (one_P, other_P) in enumerate((pairs, pairs[::-1])):
        order = np.argsort(one_P, kind="stable")
        for start in range(0, count, BLOCK):
            here = order[slice(*np.searchsorted(one_P[order], [start, start + BLOCK]))]
            if not len(here):
                continue
            asked, begins = np.unique(one_P[here], return_index=True)
            cut = normal(crops(grey_NSS[asked]))
            turned = turns(small_NT[other_P[here]])
            for name, (low, high) in enumerate(pairwise([*begins, len(here)])):
                likeness = cut[name] @ turned[low:high].reshape(-1, SMALL * SMALL).T
                best = likeness.max(axis=0).reshape(-1, turned.shape[1]).max(axis=1)
                left[here[low:high]] = np.minimum(left[here[low:high]], 1 - best)
            on_progress(min(1.0, (number + (start + BLOCK) / count) / 2))
    return np.asarray(np.maximum(left, 0)[places_P])


def wholes(grey_NSS: npt.NDArray[np.uint8]) -> Floats:
    """[N, T, T]: the whole pictures."""
    whole = cutters(grey_NSS.shape[1])[0]
    starts = range(0, len(grey_NSS), BLOCK)
    made = [whole @ grey_NSS[at : at + BLOCK].astype(np.float32) @ whole.T for at in starts]
    return np.concatenate(made)


def crops(grey_NSS: npt.NDArray[np.uint8]) -> Floats:
    """[N, V, T, T]: the whole picture, then its crops, each at T x T."""
    cutting = cutters(grey_NSS.shape[1])
    rows = cutting.reshape(-1, cutting.shape[2]) @ grey_NSS.astype(np.float32)
    made = [(rows[:, :SMALL] @ cutting[0].T)[:, None]]
    for size in range(len(CROPS)):
        own = 1 + size * len(PLACES)
        across = cutting[own : own + len(PLACES)].reshape(-1, cutting.shape[2])
        cut = rows[:, own * SMALL : own * SMALL + len(across)] @ across.T
        each = cut.reshape(-1, len(PLACES), SMALL, len(PLACES), SMALL).swapaxes(2, 3)
        made.append(each.reshape(len(cut), -1, SMALL, SMALL))
    return np.concatenate(made, axis=1)


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
    return np.asarray(np.where(length > SMALL * EVEN, flat / np.maximum(length, 1e-9), 0))


def turns(flat_NT: Floats) -> Floats:
    """[N, 8, T * T]: every way round a picture can be."""
    return np.asarray(flat_NT[:, ways()])


@cache
def ways() -> Whole:
    """[8, T * T]: where each pixel comes from."""
    pixels = np.arange(SMALL * SMALL).reshape(SMALL, SMALL)
    return np.array(
        [np.rot90(one, turn).ravel() for one in (pixels, pixels[:, ::-1]) for turn in range(4)]
    )
