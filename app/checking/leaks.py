"""Copies that lie on both sides of a split, and what they are worth in accuracy.

N images.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from app.checking.material import BLOCK, Floats, Material, Whole
from app.checking.report import Case, Finding, named
from jepack.measures import vote

VOTERS = 10
MOST = 5_000  # test images that are asked, beside those with a copy in training

TRAIN = ("train", "training", "fit")
NOTHING = Finding(
    kind="leaks",
    title="Leaks between training and test",
    method="Groups of copies with images on both sides. The price is the accuracy of a vote of the "
    f"{VOTERS} nearest training images on the test images, with the copies and without them.",
    measure="q-value of the group of copies",
)


def find(material: Material, copies: Finding, split: dict[str, str]) -> Finding:
    """`split`: part by id, such as "train" and "test"; {} where nothing is known of one."""
    held = {part for part in split.values() if part not in TRAIN}
    if not held or not any(part in TRAIN for part in split.values()):
        why = "Nothing here tells which images are for training and which for test."
        return Finding(**{**vars(NOTHING), "skipped": why, "fault": False})
    cases, outside = [], set[str]()
    for case in copies.cases:
        parts = {split[name] for name in case.ids if name in split}
        if not parts & held or not parts & set(TRAIN):
            continue
        learned = tuple(name for name in case.ids if split.get(name) in TRAIN)
        tested = tuple(name for name in case.ids if split.get(name) in held)
        outside |= set(learned)
        why = f"In training: {named(learned)}. In {named(sorted(parts & held))}: {named(tested)}."
        cases.append(Case(ids=(*tested, *learned), why=why, figure=case.figure, extra=learned))
    told = {"cases": tuple(cases), "price": price(material, split, outside) if cases else ""}
    return Finding(**{**vars(NOTHING), **told})


def price(material: Material, split: dict[str, str], outside: set[str]) -> str:
    """What the accuracy loses when the training images `outside` are left out."""
    parts = np.array([split.get(name, "") for name in material.ids])
    known = material.codes_N >= 0
    learned = np.isin(parts, TRAIN) & known
    tested = np.flatnonzero((parts != "") & ~np.isin(parts, TRAIN) & known)
    if not learned.any() or not len(tested) or len(material.classes) < 2:
        return "Without labels its price in accuracy cannot be told."
    if len(tested) > MOST:
        tested = np.sort(np.random.default_rng(0).choice(tested, MOST, replace=False))
    kept = learned & ~np.isin(material.ids, sorted(outside))
    before, after = (accuracy(material, np.flatnonzero(mask), tested) for mask in (learned, kept))
    return (
        f"{before:.1%} of {len(tested):,} test images are named rightly with these copies in training, "
        f"{after:.1%} without: {100 * (before - after):+.1f} points are the copies'."
    )


def accuracy(material: Material, learned: Whole, tested: Whole) -> float:
    right = 0
    for start in range(0, len(tested), BLOCK):
        asked = tested[start : start + BLOCK]
        similar: Floats = material.vectors_ND[asked] @ material.vectors_ND[learned].T
        named_as: npt.NDArray[np.int64] = vote(similar, material.codes_N[learned], VOTERS)
        right += int((named_as == material.codes_N[asked]).sum())
    return right / len(tested)
