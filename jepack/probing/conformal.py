"""Saying "unsure": split-conformal prediction.

From n labelled images that the head was not fitted on comes a threshold, so that of images like them at
most a share `error_rate` gets a single name that is wrong, whatever the head and the data: the true class
lies outside the set of names with at most that chance. Source: Angelopoulos and Bates, arXiv:2107.07511,
section 1.

N images, C classes.
"""

from __future__ import annotations

import math

import numpy as np

from jepack.probing.heads import Floats, Ints

UNSURE = -1


def scores_of(shares_NC: Floats, y_N: Ints) -> Floats:
    """How strange the truth is to the head: 1 - its probability, [N]."""
    return 1 - shares_NC[np.arange(len(y_N)), y_N]


def threshold(scores_N: Floats, error_rate: float) -> float | None:
    """The largest score of a class that may be named; None where there are too few images for that rate."""
    rank = math.ceil((len(scores_N) + 1) * (1 - error_rate))
    return float(np.sort(scores_N)[rank - 1]) if rank <= len(scores_N) else None


def needed(error_rate: float) -> int:
    """The fewest images that a threshold can be taken from."""
    return math.ceil((1 - error_rate) / error_rate - 1e-9)


def sets_of(shares_NC: Floats, most: float) -> np.ndarray:
    """Which classes each image may be, bool [N, C]; holds the true one with 1 - error_rate."""
    return 1 - shares_NC <= most


def named(shares_NC: Floats, most: float | None) -> Ints:
    """The one class that each image may be, UNSURE where there are several or none, [N]."""
    if most is None:
        return np.full(len(shares_NC), UNSURE, np.int64)
    sets = sets_of(shares_NC, most)
    return np.where(sets.sum(axis=1) == 1, sets.argmax(axis=1), UNSURE).astype(np.int64)
