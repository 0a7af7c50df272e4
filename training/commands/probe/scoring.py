"""Simple models on frozen features, and their accuracies.

N images, E dims. Features are standardised on the training part; the linear probe's strength is chosen by
cross-validation inside the training part alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from jepack.errors import DataError
from training.data import Ints
from training.watch import knn_accuracy

Floats = npt.NDArray[np.float32]
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
SHOTS = (1, 5, 10)


@dataclass(frozen=True)
class Score:
    """Accuracies on the test part, 0..1; few-shot figures are means over 20 draws."""

    linear: float
    linear_low: float  # 95 % bootstrap interval over test images
    linear_high: float
    balanced: float  # mean recall over the classes of the test part, of the linear probe
    knn: float
    few_shot: dict[int, float]  # labelled images per class -> accuracy
    majority: float
    train_images: int
    test_images: int


def score(x: Floats, y: Ints, train: Ints, test: Ints, seed: int = 0) -> Score:
    """Probe features x [N, E] with labels y [N] on index arrays train and test."""
    if len(np.unique(y[train])) < 2:
        raise DataError("a probe needs at least two classes in its training part")
    scaler = StandardScaler().fit(x[train])
    z = scaler.transform(x).astype(np.float32)
    answer = fit_linear(z[train], y[train], seed).predict(z[test])
    right = answer == y[test]
    generator = np.random.default_rng(seed)
    draws = right[generator.integers(0, len(right), (1000, len(right)))].mean(axis=1)
    return Score(
        linear=float(right.mean()),
        linear_low=float(np.quantile(draws, 0.025)),
        linear_high=float(np.quantile(draws, 0.975)),
        balanced=float(recall_score(y[test], answer, labels=np.unique(y[test]), average="macro")),
        knn=knn_accuracy(x[train], y[train], x[test], y[test]),
        few_shot={shots: few_shot(z, y, train, test, shots, seed) for shots in SHOTS},
        majority=float(np.bincount(y[test]).max() / len(test)),
        train_images=len(train),
        test_images=len(test),
    )


def fit_linear(z: Floats, y: Ints, seed: int) -> LogisticRegression:
    """Logistic regression whose strength does best in 3-fold cross-validation."""
    folds = min(3, int(np.bincount(y)[np.unique(y)].min()))
    best = STRENGTHS[2]
    if folds >= 2:
        splits = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(z, y))
        accuracies = []
        for strength in STRENGTHS:
            folded = [logistic(z[a], y[a], strength).score(z[b], y[b]) for a, b in splits]
            accuracies.append(np.mean(folded))
        best = STRENGTHS[int(np.argmax(accuracies))]
    return logistic(z, y, best)


def logistic(z: Floats, y: Ints, strength: float) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 300 steps are plenty for a probe
        return LogisticRegression(C=strength, max_iter=300).fit(z, y)


def few_shot(z: Floats, y: Ints, train: Ints, test: Ints, shots: int, seed: int) -> float:
    """Nearest class mean from `shots` labelled images per class, mean over 20 draws."""
    generator = np.random.default_rng([seed, shots])
    classes = np.unique(y[train])
    accuracies = []
    for _ in range(20):
        means = []
        for label in classes:
            members = train[y[train] == label]
            chosen = generator.choice(members, min(shots, len(members)), replace=False)
            means.append(z[chosen].mean(axis=0))
        distance = ((z[test][:, None] - np.stack(means)[None]) ** 2).sum(axis=2)
        accuracies.append((classes[distance.argmin(axis=1)] == y[test]).mean())
    return float(np.mean(accuracies))


def mean_of(scores: Sequence[Score]) -> Score:
    """Means over splits; the interval spans the splits' own intervals' means."""
    if len(scores) == 1:
        return scores[0]
    values: dict[str, Any] = {}
    for name, first in asdict(scores[0]).items():
        every = [asdict(one)[name] for one in scores]
        if isinstance(first, dict):
            values[name] = {key: float(np.mean([one[key] for one in every])) for key in first}
        else:
            values[name] = type(first)(np.mean(every))
    return Score(**values)


def probe_column(
    x: Floats, values: Sequence[str], splits: list[tuple[Ints, Ints]]
) -> dict[str, Any]:
    """How well the features tell the control column: far above its majority means that it can leak."""
    names = sorted(set(values))
    y = np.array([names.index(value) for value in values])
    if len(names) < 2:
        return {"values": 1, "linear": 1.0, "majority": 1.0}
    linear, majority = [], []
    for train, test in splits:
        if len(np.unique(y[train])) < 2:
            continue
        scaler = StandardScaler().fit(x[train])
        z = scaler.transform(x).astype(np.float32)
        answer = fit_linear(z[train], y[train], 0).predict(z[test])
        linear.append(float((answer == y[test]).mean()))
        majority.append(float(np.bincount(y[test]).max() / len(test)))
    if not linear:
        raise DataError("--control: no split leaves two of its values in the training part")
    return {
        "values": len(names), "linear": float(np.mean(linear)), "majority": float(np.mean(majority)),
    }  # fmt: skip
