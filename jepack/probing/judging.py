"""How good a head on these vectors is: cross-validated, and beside what needs no encoder.

No image is judged by a head that saw it or, where groups are known, another image of its group. N labelled
images, D dimensions, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from jepack.probing.calibration import calibration_error, log_loss
from jepack.probing.heads import Floats, Head, Ints, Standard, fit, standard_of

FOLDS = 5
SHARES = (1 / 8, 1 / 4, 1 / 2)  # of a training part, of the learning curve
Z = 1.96  # of 95 %
HELPS, HARDLY = (
    0.005,
    0.02,
)  # gain of the last doubling above which, and below which, a verdict is given

Split = tuple[Ints, Ints]
Progress = Callable[[float], None]
Told = Callable[["Judgement"], None]


@dataclass(frozen=True)
class Figure:
    """A share of right answers with its 95 % interval."""

    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Point:
    """Of the learning curve."""

    labels: int  # that a head was fitted on, mean over the folds
    right: Figure


@dataclass(frozen=True)
class Judgement:
    """What is known so far; `random`, `curve` and `gain` come last."""

    classes: tuple[str, ...]
    images: int
    groups: int | None  # how many there are; None where every image stands for itself
    folds: int
    kind: str  # of the head that was fitted on most
    accuracy: Figure
    majority: float  # always naming the commonest class of the training part
    over_majority: Figure  # accuracy - majority
    answers: Ints = field(repr=False)  # [N], each image's by the head that did not see it
    shares: Floats = field(repr=False)  # [N, C], likewise
    confusion: Ints = field(repr=False)  # [C, C]: true class, answer
    log_loss: float  # of the shares, nats
    calibration_error: float  # of the shares, see calibration
    random: Figure | None = None  # the same with vectors of no encoder
    over_random: Figure | None = None  # accuracy - random
    curve: tuple[Point, ...] = ()
    gain: Figure | None = None  # of the last doubling of labels


def usable(y_N: Ints, groups_N: Ints | None) -> npt.NDArray[np.bool_]:
    """Images whose class can be judged: it is seen in two images at least, and in two groups."""
    units = np.arange(len(y_N)) if groups_N is None else groups_N
    enough = [name for name in np.unique(y_N) if len(np.unique(units[y_N == name])) >= 2]
    return np.isin(y_N, enough)


def folds_of(y_N: Ints, groups_N: Ints | None, most: int = FOLDS, seed: int = 0) -> list[Split]:
    """(training, test) rows that share no group; all of `y_N` must be `usable`."""
    units = np.arange(len(y_N)) if groups_N is None else groups_N
    fewest = min(len(np.unique(units[y_N == name])) for name in np.unique(y_N))
    count = max(2, min(most, fewest))
    if groups_N is None:
        return list(StratifiedKFold(count, shuffle=True, random_state=seed).split(y_N, y_N))
    chosen = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    return [
        (train, test)
        for train, test in chosen.split(y_N, y_N, groups_N)
        if len(test) and len(train)
    ]


def judge(
    x_ND: Floats,
    y_N: Ints,
    classes: Sequence[str],
    groups_N: Ints | None = None,
    *,
    random_ND: Floats | None = None,
    standard: Standard | None = None,
    shares: Sequence[float] = SHARES,
    told: Told = lambda judgement: None,
    advance: Progress = lambda share: None,
    seed: int = 0,
) -> Judgement:
    """Cross-validate; `told` gets what is known after each part. All of `y_N` must be `usable`.

    `random_ND`: vectors of no encoder; `standard`: see `fit`; `shares`: of a training part, of the learning
    curve.
    """
    folds = folds_of(y_N, groups_N, seed=seed)
    units = np.arange(len(y_N)) if groups_N is None else groups_N
    parts = 2 + len(shares)
    done = 0

    def crossed(
        x: Floats, standard: Standard | None, share: float = 1.0
    ) -> tuple[Floats, float, Head]:
        nonlocal done
        found = np.zeros((len(y_N), len(classes)), np.float32)
        sizes = []
        for train, test in folds:
            part = some_of(train, y_N, share, seed)
            head = fit(x[part], y_N[part], classes, seed, standard=standard)
            found[test] = head.probabilities(x[test])
            sizes.append(len(part))
            done += 1
            advance(done / (parts * len(folds)))
        return found, float(np.mean(sizes)), head

    given, size, head = crossed(x_ND, standard)
    answers = given.argmax(axis=1)
    right = answers == y_N
    common = np.zeros(len(y_N), bool)
    for train, test in folds:
        common[test] = y_N[test] == np.bincount(y_N[train]).argmax()
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (y_N, answers), 1)
    found = Judgement(
        tuple(classes), len(y_N), None if groups_N is None else len(np.unique(units)), len(folds),
        head.kind, figure(right, units), float(common.mean()), difference(right, common, units),
        answers, given, confusion, log_loss(given, y_N), calibration_error(given, y_N),
    )  # fmt: skip
    told(found)
    if random_ND is not None:
        own = None if standard is None else standard_of(random_ND)
        other = crossed(random_ND, own)[0].argmax(axis=1) == y_N
        found = replace(
            found, random=figure(other, units), over_random=difference(right, other, units)
        )
        told(found)
    points, half = [Point(round(size), found.accuracy)], None
    for share in reversed(shares):
        if share * size < 2 * len(np.unique(y_N)):
            break
        fewer, count, _ = crossed(x_ND, standard, share)
        correct = fewer.argmax(axis=1) == y_N
        half = correct if half is None else half
        points.insert(0, Point(round(count), figure(correct, units)))
    gain = None if half is None else difference(right, half, units)
    found = replace(found, curve=tuple(points), gain=gain)
    told(found)
    return found


def some_of(rows: Ints, y_N: Ints, share: float, seed: int) -> Ints:
    """A share of `rows` with every class in it; a larger share holds the smaller."""
    if share == 1:
        return rows
    mixed = np.random.default_rng(seed).permutation(rows)
    place = np.zeros(len(mixed))
    for name in np.unique(y_N[mixed]):
        own = np.flatnonzero(y_N[mixed] == name)
        place[own] = np.arange(len(own)) / len(own)  # the first of each class come first
    return mixed[np.argsort(place, kind="stable")][: max(2, round(share * len(rows)))]


def figure(right_N: npt.NDArray[np.bool_], units_N: Ints) -> Figure:
    """Wilson's interval of a share, for as many independent images as the groups are worth.

    It holds for these heads; that other labels would have given other heads, is not in it.
    """
    share = float(right_N.mean())
    error = standard_error(right_N.astype(float), units_N)
    groups = len(np.unique(units_N))
    worth = share * (1 - share) / error**2 if error > 0 else groups
    n = float(np.clip(worth, 1, len(right_N)))
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return Figure(share, max(0.0, middle - half), min(1.0, middle + half))


def difference(
    one_N: npt.NDArray[np.bool_], other_N: npt.NDArray[np.bool_], units_N: Ints
) -> Figure:
    """How much oftener `one` is right than `other`, on the same images."""
    apart = one_N.astype(float) - other_N.astype(float)
    half = Z * standard_error(apart, units_N)
    share = float(apart.mean())
    return Figure(share, share - half, share + half)


def standard_error(values_N: npt.NDArray[np.float64], units_N: Ints) -> float:
    """Of a mean whose values hang together inside their units."""
    names, of = np.unique(units_N, return_inverse=True)
    if len(names) < 2:
        return 0.5
    sums = np.bincount(of, values_N - values_N.mean())
    return float(np.sqrt(len(names) / (len(names) - 1) * (sums**2).sum()) / len(values_N))
