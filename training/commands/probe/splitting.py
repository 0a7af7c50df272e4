"""Which images a probe is fitted on and which it is tested on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jepack import bundle as bundles
from jepack.sources import ImageFile, record_of
from training.data import Ints, check_groups, column, one_thing, own_split, training_split


def splits_of(
    files: Sequence[ImageFile], fraction: float, seed: int, seeds: int, group_by: str | None
) -> list[tuple[Ints, Ints]]:
    """(train, test) of each seed; the data's own split is one and stays as it is.

    Of that, the probe is fitted on train and tested on test, or on val where there is no test.
    """
    told = own_split(files)
    if told is not None:
        test = np.flatnonzero(told == ("test" if (told == "test").any() else "val"))
        train = np.flatnonzero((told != "val") & (told != "test"))
        if group_by:
            check_groups(column(files, group_by), train, test, group_by)
        return [(train, test)] * seeds
    splits = []
    for number in range(seed, seed + seeds):
        if group_by is None and one_thing(files) is None:  # the order that earlier versions drew
            order = np.random.default_rng([number, 11]).permutation(len(files))
            cut = round(len(files) * fraction)
            splits.append((order[cut:], order[:cut]))
        else:
            splits.append(training_split(files, fraction, number, group_by))
    return splits


def split_words(files: Sequence[ImageFile], group_by: str | None) -> str:
    """How the test images were set apart, for people."""
    told = own_split(files)
    if told is not None:
        return f"the data's own {'test' if (told == 'test').any() else 'val'} part"
    group_by = group_by or ("file" if one_thing(files) is not None else None)
    return f"drawn at random by {group_by}" if group_by else "drawn at random"


def seen_share(
    bundle: bundles.Bundle, files: Sequence[ImageFile], splits: list[tuple[Ints, Ints]]
) -> float | None:
    """The share of test images that the encoder was fitted on, without labels; None where its manifest
    does not say. A probe's split is its own: it does not know which images an encoder saw."""
    record = record_of(bundle.manifest)
    if not record.known:
        return None
    seen = np.array(record.fitted_on(files))
    return float(np.mean([seen[test].mean() for _, test in splits]))
