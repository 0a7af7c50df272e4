"""Retrieval figures equal what scikit-learn computes, and the default needs proof to change."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from jepack.errors import ConfigError
from jepack.measures import retrieval


def clouds(count: int, spread: float, seed: int = 0, dims: int = 16) -> tuple[np.ndarray, ...]:
    """Classes around centres: the smaller the spread, the easier."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    centres = generator.standard_normal((4, dims))
    return centres[labels] + spread * generator.standard_normal((count, dims)), labels


def test_mean_average_precision_is_scikit_learn_s() -> None:
    x, y = clouds(80, 1.5)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    others = ~np.eye(len(x), dtype=bool)
    want = [
        average_precision_score((y == y[i])[others[i]], (unit @ unit[i])[others[i]])
        for i in range(len(x))
    ]
    found = retrieval.measure(x, y)
    assert found.mean_average_precision == pytest.approx(np.mean(want), abs=1e-4)
    assert found.chance == pytest.approx(19 / 79)


def test_recall_counts_the_nearest_others_and_never_the_image_itself() -> None:
    x = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]])
    assert retrieval.measure(x, [0, 0, 1, 1]).recall_at_1 == 1
    found = retrieval.measure(x, [0, 1, 0, 1])
    assert (found.recall_at_1, found.recall_at_10) == (0, 1)


def test_images_of_the_query_s_own_group_are_not_asked() -> None:
    x, y = clouds(40, 0.1)
    twins = np.concatenate([x, x + 1e-6])
    groups = np.tile(np.arange(40), 2)
    mixed = np.concatenate([y, y])
    noise = np.random.default_rng(1).permutation(mixed)
    noise[40:] = noise[:40]  # a twin has its twin's label, and nothing else is to be found
    assert retrieval.measure(twins, noise).recall_at_1 == 1
    assert retrieval.measure(twins, noise, groups=groups).recall_at_1 < 0.6


def test_codes_lose_little_where_classes_are_apart_and_binary_ties_are_no_gift() -> None:
    x, y = clouds(200, 0.3, dims=64)
    found = {codes: retrieval.measure(x, y, codes=codes) for codes in retrieval.CODES}
    assert found["int8"].mean_average_precision == pytest.approx(
        found["float32"].mean_average_precision, abs=0.01
    )
    assert found["binary"].mean_average_precision > 0.9
    constant = retrieval.measure(np.ones((200, 8)), y, codes="binary")
    assert constant.mean_average_precision == pytest.approx(constant.chance, abs=0.05)


def test_the_default_stays_unless_another_output_is_better_beyond_doubt() -> None:
    good, y = clouds(200, 0.5)
    poor, _ = clouds(200, 3.0)
    assert retrieval.choose({"embedding": poor, "projection": good}, y)["output"] == "projection"
    assert retrieval.choose({"embedding": good, "projection": poor}, y)["output"] == "embedding"
    same = retrieval.choose({"embedding": good, "projection": good}, y)
    assert same["output"] == "embedding"
    assert same["queries"] == 200
    assert same["gain_over_embedding"] == {"projection": [0, 0]}


def test_labels_that_do_not_suffice_choose_nothing() -> None:
    x, y = clouds(200, 0.5)
    outputs = {"embedding": x, "projection": x}
    assert retrieval.choose(outputs, np.full(200, -1)) == {}
    assert retrieval.choose(outputs, np.zeros(200)) == {}
    few = np.where(np.arange(200) < 40, y, -1)
    assert retrieval.choose(outputs, few) == {}
    assert retrieval.choose(outputs, y, groups=np.zeros(200)) == {}
    with pytest.raises(ConfigError, match="two images of one class"):
        retrieval.measure(x[:3], [0, 1, 2])
