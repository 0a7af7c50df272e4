"""Which images to label next: those that would teach the head most, none of them twice the same.

N images, D dimensions, C classes.
"""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from jepack.measures import unit
from jepack.probing.heads import Floats, Ints

MOST = 4000  # candidates that are looked at
WIDE = 10  # times as many uncertain images as are asked for, to choose unlike ones from


def ask(
    x_ND: Floats, shares_NC: Floats | None, count: int, *, labelled: int = 0, seed: int = 0
) -> Ints:
    """Rows of the unlabelled x_ND, the most informative first; all where there are fewer than `count`.

    Without a head, or with fewer than 3 labels a class, the typical image of each of `count` groups; then the
    uncertain ones (the two likeliest classes close together), one of each of `count` groups among them.
    Source: Zhdanov, arXiv:1901.05954; for the start Hacohen et al., arXiv:2202.02794.
    """
    generator = np.random.default_rng(seed)
    kept = np.sort(generator.permutation(len(x_ND))[:MOST])
    if len(kept) <= count:
        return kept.astype(np.int64)
    if shares_NC is None or labelled < 3 * shares_NC.shape[1]:
        return kept[spread_out(x_ND[kept], np.ones(len(kept)), count, seed)]
    doubt = doubt_of(shares_NC[kept])
    first = np.argsort(-doubt, kind="stable")[: WIDE * count]
    chosen = first[spread_out(x_ND[kept[first]], doubt[first] + 1e-6, count, seed)]
    return kept[chosen[np.argsort(-doubt[chosen], kind="stable")]]


def doubt_of(shares_NC: Floats) -> np.ndarray:
    """1 where the two likeliest classes are equal, 0 where one is certain, [N]."""
    highest = np.partition(shares_NC, -2, axis=1)[:, -2:]
    return 1 - (highest[:, 1] - highest[:, 0])


def spread_out(x_ND: Floats, weights_N: np.ndarray, count: int, seed: int) -> Ints:
    """Of each of `count` groups the row nearest to its (weighted) middle, the largest group first."""
    z = unit(x_ND).astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different images than groups
        groups = KMeans(count, n_init=1, max_iter=30, random_state=seed).fit(
            z, sample_weight=weights_N
        )
    away = ((z - groups.cluster_centers_[groups.labels_]) ** 2).sum(axis=1)
    chosen = [
        members[away[members].argmin()]
        for group in range(count)
        if len(members := np.flatnonzero(groups.labels_ == group))
    ]
    sizes = np.bincount(groups.labels_, minlength=count)
    return np.array(sorted(chosen, key=lambda row: -sizes[groups.labels_[row]]), np.int64)
