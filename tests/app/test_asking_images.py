"""What many images of an index find."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from app.asking import Asked, ask, chance, sample, shares, wilson
from app.lance import open_index
from app.search import by_id


def test_many_at_once_find_what_each_finds_alone(digits_index: Path) -> None:
    store = open_index(digits_index)
    names = sample([row.id for part in store.scan() for row in part], 12)
    asked = ask(store, names)
    for name, nearest in zip(asked.names, asked.nearest, strict=True):
        alone = [hit.row.id for hit in by_id(store, name, 10)[1]]
        assert name not in nearest
        assert len(set(nearest) & set(alone)) >= 9
        assert nearest[0] == alone[0]


def test_only_the_images_that_are_named_are_found(digits_index: Path) -> None:
    store = open_index(digits_index)
    every = [row.id for part in store.scan() for row in part]
    few = set(every[:6])
    for name, nearest in zip(every[:2], ask(store, every[:2], few).nearest, strict=True):
        assert set(nearest) == few - {name}


def test_the_share_of_like_ones_counts_labels_and_leaves_out_who_has_none() -> None:
    labels = {"a": "x", "b": "x", "c": "y", "d": None}
    found = shares(Asked(["a", "d"], [["b", "c"], ["a", "b"]]), labels)
    assert found[0] == 0.5
    assert math.isnan(found[1])
    assert chance(labels, ["a", "c"]) == pytest.approx((1 / 3 + 0) / 2)


def test_an_interval_holds_the_share_and_never_shrinks_to_a_point() -> None:
    low, high = wilson(0.5, 100)
    assert (low, high) == pytest.approx((0.404, 0.596), abs=1e-3)  # the textbook's
    assert wilson(1.0, 3)[0] < 0.5
    assert wilson(1.0, 3)[1] == 1.0


def test_a_sample_is_the_same_every_time() -> None:
    names = [str(at) for at in range(100)]
    assert sample(names, 10) == sample(names, 10)
    assert len(set(sample(names, 10))) == 10
    assert sample(names, 1000) == names
    assert np.isin(sample(names, 10), names).all()
