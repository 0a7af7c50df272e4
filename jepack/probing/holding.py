"""A head fitted on labelled images, some of them held back for the word "unsure".

N images, D dimensions, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jepack.probing.conformal import scores_of
from jepack.probing.heads import Floats, Head, Ints, Standard, fit
from jepack.probing.judging import folds_of, usable

LEAST_CALIBRATED = 20  # labels from which a quarter is set aside


@dataclass(frozen=True)
class Fitted:
    """A head, and how strange the truth of the images that it did not see is to it (see conformal)."""

    head: Head
    scores: Floats  # of those held back; none where there are too few labels


def fit_some(
    x_ND: Floats,
    y_N: Ints,
    classes: Sequence[str],
    groups_N: Ints | None = None,
    *,
    standard: Standard | None = None,
) -> Fitted:
    """Fit on the labelled images, a quarter of them (by groups) held back where they suffice.

    `standard`: see `fit`.
    """
    rows = np.arange(len(y_N))
    known = rows[usable(y_N, groups_N)]
    held = np.zeros(0, np.int64)
    if len(known) >= LEAST_CALIBRATED and len(np.unique(y_N[known])) >= 2:
        own = None if groups_N is None else groups_N[known]
        held = known[folds_of(y_N[known], own, most=4)[0][1]]
        if len(np.unique(y_N[np.setdiff1d(rows, held)])) < 2:
            held = held[:0]
    fitted = np.setdiff1d(rows, held)
    head = fit(x_ND[fitted], y_N[fitted], classes, standard=standard)
    return Fitted(head, scores_of(head.probabilities(x_ND[held]), y_N[held]))
