"""Near-duplicates, by a null measured on the same index.

Each image is laid beside its four nearest in the encoder's space and its four nearest in pixels. What
counts is the part of the one picture that the other leaves unexplained (overlay.py), to a
power, times their distance, in units of how far apart neighbours are about there.

The null is what the same figure gives for images that are no copies: neighbours five to eight, because a
group of copies is rarely larger. They lie farther than one to four would, so their figures are moved nearer:
by the factor between neighbours nine to sixteen and five to eight, as a power of the rank (from the ninth to
the fifth, and on to the first). Beyond the smallest three percent of the null its power law goes on (Hill's
estimate). Benjamini and Hochberg's rule then keeps the share of false pairs among those told at RATE, as far
as the null is right; benchmarks.planting shows how far.

N images, L neighbours, P pairs.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from app.checking import overlay
from app.checking.material import BLOCK, Floats, Material, Progress, Whole, ladder
from app.checking.pictures import Pictures
from app.checking.report import Case, Finding, named

RATE = 0.1  # of false discoveries
SAME = 1e-6  # cosine distance of the same pixels; float32 leaves 1e-7
RANKS = (slice(0, 4), slice(4, 8), slice(8, 16))  # may be copies; are none; are none, farther
ONWARD = math.log(5 / 1) / math.log(
    9 / 5
)  # from the fifth to the first, in steps from the ninth to the fifth
LEAST = 64  # images; among fewer only the same pixels are told
TAIL = 0.03  # share of the null that its power law is fitted to
POWER = 0.75  # of what is left unexplained; planted copies are told best from 0.5 to 1
SHAPE = 1.5  # times as long for its width: no copy
FLOOR = 1e-4  # of what is left unexplained; thumbnails are no finer


def find(material: Material, pictures: Pictures, on_progress: Progress) -> tuple[Finding, Whole]:
    """(the groups of copies, [N] the number of each image's group; alone it is its own)."""
    pairs_P2, q_P = pairs_of(material, pictures, on_progress)
    group_N = groups_of(len(material.ids), pairs_P2)
    cases = []
    for number in np.unique(group_N[pairs_P2[:, 0]]) if len(pairs_P2) else ():
        members = np.flatnonzero(group_N == number)
        inside = np.flatnonzero(group_N[pairs_P2[:, 0]] == number)
        at = inside[np.argmin(q_P[inside])]
        ids = tuple(material.ids[one] for one in members)
        cases.append(
            Case(
                ids=ids,
                why=why_of(material, pairs_P2[inside], members),
                figure=float(q_P[at]),
                extra=ids[1:],
            )
        )
    small = len(material.ids) < LEAST
    return (
        Finding(
            kind="copies",
            title="Copies",
            method=SMALL_METHOD if small else METHOD,
            measure="q-value: the share of false pairs among all that are as alike",
            cases=tuple(sorted(cases, key=lambda case: (case.figure, case.ids))),
        ),
        group_N,
    )


METHOD = (
    f"Pairs that are more alike, in the encoder's space and laid over each other, than images here "
    f"are that cannot "
    f"all be copies (each one's fifth to eighth neighbour); at most about {RATE:.0%} of them should "
    f"be chance. "
    "Larger groups of copies hide one another from this, and a series of pictures of one thing is "
    "told as copies."
)
SMALL_METHOD = f"Among fewer than {LEAST} images only those with the same pixels are told."


def pairs_of(material: Material, pictures: Pictures, on_progress: Progress) -> tuple[Whole, Floats]:
    """([P, 2] pairs told as copies, [P] their q-values)."""
    count = len(material.ids)
    same = np.argwhere(material.far_NL[:, : RANKS[0].stop] <= SAME)
    same_P2 = np.stack([same[:, 0], material.at_NL[same[:, 0], same[:, 1]]], axis=1)
    if count < LEAST:
        return same_P2, np.zeros(len(same_P2))
    by_pixels, _ = ladder(
        overlay.normal(overlay.wholes(pictures.grey_NSS)), lambda share: on_progress(share / 4)
    )
    found = (material.at_NL, by_pixels)
    second = np.concatenate([one[:, ranks] for ranks in RANKS for one in found], axis=1)
    pairs_P2 = np.stack([np.repeat(np.arange(count), second.shape[1]), second.ravel()], axis=1)
    figures = unlikeness(
        material, pictures, pairs_P2, lambda share: on_progress((1 + 3 * share) / 4)
    )
    ends = np.cumsum([len(found) * (ranks.stop - ranks.start) for ranks in RANKS])
    own, null, farther = np.split(figures.reshape(count, -1), ends[:-1], axis=1)
    tested = pairs_P2.reshape(count, -1, 2)[:, : ends[0]].reshape(-1, 2)
    nearer = min(1.0, float(np.quantile(null, TAIL) / np.quantile(farther, TAIL))) ** ONWARD
    q = discoveries(p_values(own.ravel(), null.ravel() * nearer))
    q = np.where(is_same(material, tested), 0, q)
    shapes = np.log(pictures.longer[tested])
    q = np.where(abs(shapes[:, 0] - shapes[:, 1]) > math.log(SHAPE), 1, q)
    told = q <= RATE
    return np.concatenate([tested[told], same_P2]), np.concatenate(
        [q[told], np.zeros(len(same_P2))]
    )


def unlikeness(
    material: Material, pictures: Pictures, pairs_P2: Whole, on_progress: Progress
) -> Floats:
    """[P]: 0 for the same picture; about 1 for neighbours with nothing in common in their pixels."""
    first, second = pairs_P2.T
    left = overlay.remainder(pictures.grey_NSS, pairs_P2, on_progress)
    here = np.maximum(material.far_NL[:, RANKS[1].stop - 1], SAME)
    apart = np.maximum(distances(material, pairs_P2), SAME / 10)
    return np.asarray(
        np.maximum(left, FLOOR) ** POWER * apart / np.sqrt(here[first] * here[second])
    )


def distances(material: Material, pairs_P2: Whole) -> Floats:
    """[P]: cosine distances."""
    vectors, found = material.vectors_ND, np.empty(len(pairs_P2), np.float32)
    for start in range(0, len(pairs_P2), BLOCK):
        first, second = pairs_P2[start : start + BLOCK].T
        found[start : start + BLOCK] = 1 - (vectors[first] * vectors[second]).sum(axis=1)
    return found


def is_same(material: Material, pairs_P2: Whole) -> npt.NDArray[np.bool_]:
    return np.asarray(distances(material, pairs_P2) <= SAME)


def p_values(values: Floats, null: Floats) -> Floats:
    """The share of the null that is as small, the value counted with it; below its smallest TAIL by a power
    law, whose exponent is Hill's estimate."""
    ordered = np.sort(null)
    counted = (1 + np.searchsorted(ordered, values, side="right")) / (1 + len(ordered))
    cut = max(20, round(TAIL * len(ordered)))
    edge = float(np.log(ordered[cut]))
    exponent = cut / max(float(np.sum(edge - np.log(ordered[:cut]))), 1e-9)
    law = cut / len(ordered) * np.exp(np.minimum(0, exponent * (np.log(values) - edge)))
    return np.asarray(np.where(values < ordered[cut], law, counted))


def discoveries(p: Floats) -> Floats:
    """q-values: telling all up to q has a rate of false discoveries of q. Benjamini and Hochberg (1995)."""
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    q = np.empty(len(p))
    q[order] = np.minimum(1, np.minimum.accumulate(scaled[::-1])[::-1])
    return q


def groups_of(count: int, pairs_P2: Whole) -> Whole:
    """[N]: the lowest number that each image hangs together with."""
    group = np.arange(count)

    def root(at: int) -> int:
        while group[at] != at:
            group[at] = group[group[at]]
            at = int(group[at])
        return at

    for first, second in pairs_P2:
        one, other = root(int(first)), root(int(second))
        group[max(one, other)] = min(one, other)
    return np.array([root(at) for at in range(count)], np.int64)


def why_of(material: Material, pairs_P2: Whole, members: Whole) -> str:
    """What the pictures have in common."""
    if (distances(material, pairs_P2) <= SAME).all():
        told = "The encoder cannot tell them apart"
    else:
        told = "More alike than two different images here"
    labels = {material.labels[at] for at in members if material.labels[at]}
    if len(labels) > 1:
        told += f", and yet with the labels {named(sorted(labels))}"
    return f"{told}."
