"""Rows in less room: what they hold, and how their measurement is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jepack.measures import codes
from jepack.measures.codes import Kept

X = np.random.default_rng(0).standard_normal((50, 20)).astype(np.float32)


def test_int8_keeps_the_cosine_and_uses_the_whole_range() -> None:
    found = codes.int8(X)
    assert np.abs(found).max(axis=1).tolist() == [127] * 50
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (X, found.astype(np.float32)))
    assert ((a * b).sum(axis=1) > 0.9999).all()
    assert (codes.int8(np.zeros((1, 4))) == 0).all()


def test_bits_are_the_signs_eight_a_byte() -> None:
    found = codes.packed(X)
    assert found.shape == (50, 3)
    assert (np.unpackbits(found, axis=1)[:, :20] == (X > 0)).all()


def test_sizes_are_powers_of_two_below_the_width() -> None:
    assert codes.sizes(512) == [256, 128, 64, 32, 16, 8]
    assert codes.sizes(65) == [64, 32, 16, 8]
    assert codes.sizes(8) == []


def table(**output: Any) -> dict[str, Any]:
    return {"shorter": {"floor": 0.9, "images": 100, "neighbours": 10, "embedding": output}}


def test_the_shortest_cut_keeps_the_floor_as_every_longer_one_does() -> None:
    kept = Kept.of(table(dimensions={"256": 0.99, "128": 0.93, "64": 0.8, "32": 0.95}), "embedding")
    assert kept is not None
    assert kept.shortest == 128
    assert (kept.share_of(200), kept.share_of(64), kept.share_of(16)) == (0.93, 0.8, None)
    none = Kept.of(table(dimensions={"256": 0.5, "128": 0.93}), "embedding")
    assert none is not None
    assert none.shortest is None


@pytest.mark.parametrize(
    "measured",
    [
        {}, None, [], {"shorter": 3}, {"shorter": {"embedding": 1}}, table(dimensions=7),
        {"shorter": {"floor": "high", "images": 9, "embedding": {"dimensions": {}}}},
    ],
)  # fmt: skip
def test_what_is_no_measurement_is_none(measured: Any) -> None:
    assert Kept.of(measured, "embedding") is None


def test_figures_that_are_no_shares_are_passed_over_and_no_floor_is_lower_than_ours() -> None:
    text = table(dimensions={"256": 2, "x": 0.9, "64": 0.95}, int8="good", binary=True)
    text["shorter"]["floor"] = 0.1
    kept = Kept.of(text, "embedding")
    assert kept is not None
    assert (dict(kept.dimensions), dict(kept.numbers), kept.floor) == ({64: 0.95}, {}, codes.FLOOR)
