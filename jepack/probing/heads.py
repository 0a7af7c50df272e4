"""A head: standardised vectors -> a probability per class. Linear, or class means where labels are few.

N images, D dimensions, C classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from jepack.probing.calibration import temperature

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

Standard = tuple[Floats, Floats]  # mean and scale of each number, [D]

LINEAR, PROTOTYPES = "linear", "prototypes"
FEWEST = 5  # labels of the median class from which a linear head is fitted
STRENGTHS = (1e-3, 1e-2, 1e-1)
MOST_TO_CHOOSE = 900  # images that the strength is chosen on


@dataclass(frozen=True)
class Head:
    """One affine map for both kinds, so that both are kept and served alike."""

    kind: str
    classes: tuple[str, ...]
    mean_D: Floats
    scale_D: Floats  # what is standardised is divided by
    weight_CD: Floats
    bias_C: Floats

    def probabilities(self, x_ND: Floats) -> Floats:
        """[N, C], rows add up to 1."""
        logits = ((x_ND - self.mean_D) / self.scale_D) @ self.weight_CD.T + self.bias_C
        logits -= logits.max(axis=1, keepdims=True)
        shares = np.exp(logits)
        return (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


def standard_of(x_ND: Floats) -> Standard:
    """What standardises vectors like these; a number that hardly differs is left out."""
    mean, scale = x_ND.mean(axis=0), x_ND.std(axis=0)
    return mean, np.where(scale > 1e-6 * max(1e-12, float(scale.max())), scale, np.inf)


def fit(
    x_ND: Floats,
    y_N: Ints,
    classes: Sequence[str],
    seed: int = 0,
    *,
    standard: Standard | None = None,
) -> Head:
    """`y_N` counts into `classes`, and two of them at least occur; one that does not is never named.

    `standard`: of all images, labelled or not; without it that of x_ND. Of few labelled images some numbers
    hardly differ by chance, and divided by so little they would outweigh all others in the next image.
    """
    mean, scale = standard_of(x_ND) if standard is None else standard
    z = ((x_ND - mean) / scale).astype(np.float32)
    present, counts = np.unique(y_N, return_counts=True)
    kind = LINEAR if np.median(counts) >= FEWEST else PROTOTYPES
    own, offset = linear(z, y_N, seed) if kind == LINEAR else prototypes(z, y_N)
    weight = np.zeros((len(classes), x_ND.shape[1]), np.float32)
    bias = np.full(len(classes), -1e4, np.float32)
    weight[present], bias[present] = own, offset
    scale = np.where(np.isfinite(scale), scale, np.finfo(np.float32).max)
    return Head(
        kind, tuple(classes), mean.astype(np.float32), scale.astype(np.float32), weight, bias
    )


def linear(z_ND: Floats, y_N: Ints, seed: int) -> tuple[Floats, Floats]:
    """Logistic regression, calibrated: weights [C, D], bias [C] of the classes that occur."""
    strength, warmth = strength_for(z_ND, y_N, seed)
    model = logistic(z_ND, y_N, strength)
    weight, bias = model.coef_ / warmth, model.intercept_ / warmth
    if len(weight) == 1:  # of two classes scikit-learn keeps the second alone
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight.astype(np.float32), bias.astype(np.float32)


def strength_for(z_ND: Floats, y_N: Ints, seed: int) -> tuple[float, float]:
    """The strength that gives unseen images of the training part the best log loss, and the temperature that
    calibrates it there."""
    if len(y_N) > MOST_TO_CHOOSE:
        kept = np.random.default_rng(seed).permutation(len(y_N))[:MOST_TO_CHOOSE]
        z_ND, y_N = z_ND[kept], y_N[kept]
    names, counts = np.unique(y_N, return_counts=True)
    enough = np.isin(y_N, names[counts >= 3])
    z_ND, y_N = z_ND[enough], y_N[enough]
    if len(np.unique(y_N)) < 2:
        return STRENGTHS[1], 1.0
    train, test = next(StratifiedKFold(3, shuffle=True, random_state=seed).split(z_ND, y_N))
    found = []
    for strength in STRENGTHS:
        model = logistic(z_ND[train], y_N[train], strength)
        own = np.searchsorted(model.classes_, y_N[test])
        with np.errstate(divide="ignore"):  # a share of 0 counts as exp(-20)
            shares = model.predict_log_proba(z_ND[test])
        loss = -np.maximum(shares[np.arange(len(test)), own], -20).sum()
        found.append((loss, strength, temperature(shares, own)))
    return min(found)[1:]


def logistic(z_ND: Floats, y_N: Ints, strength: float) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 100 steps are plenty for a probe
        return LogisticRegression(C=strength, max_iter=100, tol=1e-3).fit(z_ND, y_N)


def prototypes(z_ND: Floats, y_N: Ints) -> tuple[Floats, Floats]:
    """Nearest class mean as an affine map; the nearer in units of the spread within classes, the surer."""
    names = np.unique(y_N)
    means = np.stack([z_ND[y_N == name].mean(axis=0) for name in names])
    inside = z_ND - means[np.searchsorted(names, y_N)]
    free = max(1, len(y_N) - len(names))
    # Where every class has one image, nothing is known of the spread: that of all images, halved.
    spread = float((inside**2).sum() / free) if len(y_N) > len(names) else z_ND.shape[1] / 2
    spread = max(spread, 1e-6)
    weight = means * (np.sqrt(z_ND.shape[1]) / spread)
    bias = -0.5 * (means**2).sum(axis=1) * (np.sqrt(z_ND.shape[1]) / spread)
    return weight.astype(np.float32), bias.astype(np.float32)
