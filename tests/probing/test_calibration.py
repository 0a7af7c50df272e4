"""Probabilities mean what they say."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jepack.probing import fit_some, judge
from jepack.probing.calibration import calibration_error, log_loss, temperature


def told(sure: float, right: float, count: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Images of which each is named with probability `sure`, and the share `right` of them rightly."""
    shares = np.tile([sure, 1 - sure], (count, 1))
    return shares, (np.arange(count) >= round(right * count)).astype(np.int64)


def test_the_error_is_how_far_the_probability_is_from_the_share_of_right_names() -> None:
    assert calibration_error(*told(0.8, 0.8)) == pytest.approx(0)
    assert calibration_error(*told(0.95, 0.7)) == pytest.approx(0.25)
    sure, unsure = told(0.9, 0.8), told(0.6, 0.7)
    both = np.concatenate([sure[0], unsure[0]]), np.concatenate([sure[1], unsure[1]])
    assert calibration_error(*both) == pytest.approx(0.1)  # they do not make up for each other
    assert log_loss(*told(0.8, 1.0)) == pytest.approx(-np.log(0.8))


def test_a_temperature_mends_logits_that_are_too_sure_and_moves_little_of_few_images() -> None:
    shares, truth = told(0.95, 0.7)
    found = temperature(np.log(shares), truth)
    mended = shares ** (1 / found)
    mended /= mended.sum(axis=1, keepdims=True)
    assert mended[0, 0] == pytest.approx(0.7, abs=0.03)
    few = temperature(np.log(shares[:2]), np.array([0, 1]))
    assert abs(np.log(few)) < abs(np.log(found))
    assert temperature(np.log(told(0.8, 0.8)[0]), told(0.8, 0.8)[1]) == pytest.approx(1, abs=0.1)


def test_a_head_on_real_vectors_is_calibrated_in_cross_validation() -> None:
    digits = load_digits()
    x, y = digits.data[:600].astype(np.float32), digits.target[:600].astype(np.int64)
    found = judge(x, y, [str(name) for name in range(10)], shares=())
    assert found.accuracy.share > 0.9
    assert found.calibration_error < 0.06
    assert found.log_loss < 0.3
    assert found.gain is None


def test_a_quarter_of_the_labels_is_held_back_where_there_are_enough_and_no_group_is_torn() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(80, 8)).astype(np.float32)
    y = np.arange(80) % 2
    x[y == 1] += 3
    assert len(fit_some(x, y, ["a", "b"]).scores) == 20
    assert len(fit_some(x[:12], y[:12], ["a", "b"]).scores) == 0
    groups = np.arange(80) // 20
    assert len(fit_some(x, y, ["a", "b"], groups).scores) == 20


def test_a_true_class_of_probability_0_makes_a_head_less_sure_not_surer() -> None:
    surely_wrong = np.array([[0.0, -np.inf], [-np.inf, 0.0]] * 10)
    assert temperature(surely_wrong, np.array([1, 0] * 9 + [0, 1])) > 2
