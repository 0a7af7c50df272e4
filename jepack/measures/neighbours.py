"""Nearest neighbours by cosine, and their vote on a class. numpy only.

N vectors of D dimensions, Q of them asked for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

TEMPERATURE = (
    0.07  # of the votes' weights, exp(cosine / 0.07): Wu et al., arXiv:1805.01978, section 3.4
)


def unit(x_ND: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The vectors at length 1; one of zeros stays as it is."""
    return np.asarray(x_ND / np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), 1e-30))


def similarities(x_ND: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Cosine of every pair, [N, N]; -inf for a vector with itself."""
    x = unit(x_ND)
    similar = x @ x.T
    np.fill_diagonal(similar, -np.inf)
    return np.asarray(similar)


def vote(similar_QN: npt.NDArray[Any], labels_N: npt.NDArray[Any], k: int) -> npt.NDArray[np.int64]:
    """[Q]: the class that the k most similar vote for, each with exp(cosine / 0.07).

    `labels_N` are class numbers from 0. Of -inf a vector has no vote.
    """
    k = min(k, similar_QN.shape[1])
    nearest = np.argpartition(-similar_QN, k - 1, axis=1)[:, :k]
    weight = np.exp(np.take_along_axis(similar_QN, nearest, axis=1) / TEMPERATURE)
    counts = np.zeros((len(similar_QN), int(labels_N.max()) + 1), np.float64)
    np.add.at(counts, (np.arange(len(counts))[:, None], labels_N[nearest]), weight)
    return np.asarray(counts.argmax(axis=1), np.int64)
