"""Faults that nulls know: crops keep their shape, and each name is one that a null may hold."""

from __future__ import annotations

import numpy as np
import pytest

from jepack.faults import faults
from jepack.measures import FAULTS


def crops(channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_fault_changes_pixels_and_nothing_else(channels: int) -> None:
    known = faults(channels)
    assert set(known) <= set(FAULTS)
    assert (set(known) == set(FAULTS)) == (channels == 3)
    for name, fault in known.items():
        before = crops(channels)
        after = fault(before)
        assert (after.shape, after.dtype) == (before.shape, before.dtype), name
        assert (after != before).any(), name
        np.testing.assert_array_equal(before, crops(channels))


def test_faults_are_what_they_are_called() -> None:
    x, known = crops(3), faults(3)
    assert known["darker"](x).mean() < x.mean() < known["brighter"](x).mean()
    assert known["flatter"](x).std() < x.std()
    assert known["blurred"](x).std() < x.std()
    assert np.ptp(known["grey"](x), axis=-1).max() == 0
    np.testing.assert_array_equal(known["red for blue"](x)[..., 0], x[..., 2])
