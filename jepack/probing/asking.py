"""Which images to label next: those that would teach the head most, none of them twice the same.

N images, K labelled ones, D dimensions, C classes.
"""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from jepack.measures import unit
from jepack.probing.heads import Floats, Ints

MOST = 4000  # candidates that are looked at
MOST_KNOWN = 150  # labelled ones that are kept away from
START = 3  # labels a class from which a head knows what it doubts
WIDE = 10  # times as many uncertain images as are asked for, to choose unlike ones from


def ask(
    x_ND: Floats,
    shares_NC: Floats | None,
    count: int,
    *,
    known_KD: Floats | None = None,
    seed: int = 0,
) -> Ints:
    """Rows of the unlabelled x_ND, the most informative first; all where there are fewer than `count`.

    Without a head, or with fewer than START labels a class, the typical images of the largest groups in which
    none of the labelled `known_KD` lies; then the uncertain ones (the two likeliest classes close together),
    one of each of `count` groups among them. What it saves: benchmarks.active.
    Source: Zhdanov, arXiv:1901.05954; for the start Hacohen et al., arXiv:2202.02794.
    """
    generator = np.random.default_rng(seed)
    kept = np.sort(generator.permutation(len(x_ND))[:MOST])
    if len(kept) <= count:
        return kept.astype(np.int64)
    known = x_ND[:0] if known_KD is None else known_KD
    if shares_NC is None or len(known) < START * shares_NC.shape[1]:
        away = known[generator.permutation(len(known))[:MOST_KNOWN]]
        return kept[spread_out(x_ND[kept], np.ones(len(kept)), count, seed, away)]
    doubt = doubt_of(shares_NC[kept])
    first = np.argsort(-doubt, kind="stable")[: WIDE * count]
    chosen = first[spread_out(x_ND[kept[first]], doubt[first] + 1e-6, count, seed, known[:0])]
    return kept[chosen[np.argsort(-doubt[chosen], kind="stable")]]


def doubt_of(shares_NC: Floats) -> np.ndarray:
    """1 where the two likeliest classes are equal, 0 where one is certain, [N]."""
    highest = np.partition(shares_NC, -2, axis=1)[:, -2:]
    return 1 - (highest[:, 1] - highest[:, 0])


def spread_out(
    x_ND: Floats, weights_N: np.ndarray, count: int, seed: int, known_KD: Floats
) -> Ints:
    """Of each of `count` groups without a known image the row nearest to its (weighted) middle, the largest
    group first."""
    z = unit(np.concatenate([x_ND, known_KD])).astype(np.float64)
    weights = np.concatenate([weights_N, np.ones(len(known_KD))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different images than groups
        groups = KMeans(count + len(known_KD), n_init=1, max_iter=30, random_state=seed).fit(
            z, sample_weight=weights
        )
    away = ((z - groups.cluster_centers_[groups.labels_]) ** 2).sum(axis=1)[: len(x_ND)]
    own, others = groups.labels_[: len(x_ND)], groups.labels_[len(x_ND) :]
    sizes = np.bincount(own, minlength=groups.n_clusters)
    taken = np.isin(np.arange(groups.n_clusters), others)
    order = sorted(np.flatnonzero(sizes), key=lambda group: (taken[group], -sizes[group]))
    members = [np.flatnonzero(own == group) for group in order[:count]]
    return np.array([rows[away[rows].argmin()] for rows in members], np.int64)
