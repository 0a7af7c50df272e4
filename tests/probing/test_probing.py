"""Heads, their judgement and the word "unsure", on data whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from jepack.probing import UNSURE, ask, fit, folds_of, judge, named, standard_of, threshold, usable
from jepack.probing.asking import doubt_of
from jepack.probing.conformal import needed, scores_of, sets_of
from jepack.probing.judging import figure

D = 16


def blobs(counts: list[int], apart: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian clouds of unit spread, their middles `apart` from each other on average."""
    generator = np.random.default_rng(seed)
    middles = np.random.default_rng(99).normal(size=(len(counts), D)) * apart / (2 * D) ** 0.5
    y = np.repeat(np.arange(len(counts)), counts)
    x = middles[y] + generator.normal(size=(len(y), D))
    return x.astype(np.float32), y


@pytest.mark.parametrize(("each", "kind"), [(2, "prototypes"), (40, "linear")])
def test_a_head_learns_what_can_be_separated_and_its_shares_add_up(each: int, kind: str) -> None:
    x, y = blobs([each] * 3, apart=14)
    head = fit(x, y, ["a", "b", "c"])
    new, truth = blobs([50] * 3, apart=14, seed=1)
    shares = head.probabilities(new)
    assert head.kind == kind
    assert (shares.argmax(axis=1) == truth).mean() > 0.97
    assert np.allclose(shares.sum(axis=1), 1, atol=1e-5)


def test_a_class_without_images_is_never_named_and_a_dead_dimension_does_no_harm() -> None:
    x, y = blobs([20, 20], apart=14)
    x[:, 3] = 7.0
    new = x.copy()
    new[:, 3] = -1e6
    shares = fit(x, 2 * y, ["a", "nobody", "c"]).probabilities(new)
    assert (shares.argmax(axis=1) == 2 * y).all()
    assert shares[:, 1].max() == 0


def test_what_can_be_separated_is_judged_right_and_noise_is_not() -> None:
    x, y = blobs([60, 30, 30], apart=14)
    noise = np.random.default_rng(5).normal(size=x.shape).astype(np.float32)
    found = judge(x, y, ["a", "b", "c"], random_ND=noise)
    assert found.accuracy.share > 0.97
    assert found.majority == 0.5
    assert found.over_majority.low > 0.3
    assert found.random is not None
    assert found.over_random is not None
    assert found.random.share < 0.65
    assert found.over_random.low > 0.2
    assert found.confusion.sum() == len(y)
    assert (np.diag(found.confusion) / found.confusion.sum(axis=1) > 0.9).all()
    assert found.gain is not None
    assert [point.labels for point in found.curve] == sorted(point.labels for point in found.curve)
    blind = judge(noise, y, ["a", "b", "c"])
    assert blind.over_majority.low <= 0


def test_more_labels_help_where_a_class_is_hard_and_not_where_it_is_learnt() -> None:
    hard = judge(*blobs([120, 120, 120], apart=3.2), ["a", "b", "c"])
    easy = judge(*blobs([120, 120, 120], apart=20), ["a", "b", "c"])
    assert hard.curve[0].right.share < hard.curve[-1].right.share
    assert easy.gain is not None
    assert easy.gain.high < 0.02


def test_groups_are_never_on_both_sides_and_cross_validation_sees_through_copies() -> None:
    """Pure noise, but each image is there five times: only groups show that nothing was learnt."""
    generator = np.random.default_rng(0)
    x = np.repeat(generator.normal(size=(60, D)), 5, axis=0)
    x = (x + 0.01 * generator.normal(size=x.shape)).astype(np.float32)
    y, groups = np.repeat(np.arange(60) % 2, 5), np.repeat(np.arange(60), 5)
    for train, test in folds_of(y, groups):
        assert not set(groups[train]) & set(groups[test])
    fooled, honest = judge(x, y, ["a", "b"]), judge(x, y, ["a", "b"], groups)
    assert fooled.accuracy.low > honest.accuracy.share
    assert honest.over_majority.low <= 0.0
    assert honest.groups == 60
    width = [one.accuracy.high - one.accuracy.low for one in (fooled, honest)]
    assert width[1] > width[0]  # 60 groups are no 300 images


def test_a_class_in_one_group_alone_cannot_be_judged() -> None:
    y = np.array([0, 0, 1, 1, 2])
    assert usable(y, None).tolist() == [True, True, True, True, False]
    assert usable(y, np.array([0, 1, 2, 2, 3])).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("size", [1, 5])
def test_the_interval_holds_the_truth_as_often_as_it_says(size: int) -> None:
    """Right answers of a known share, `size` of a group alike."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        right = np.repeat(generator.random(60) < 0.85, size)
        found = figure(right, np.repeat(np.arange(60), size))
        held += found.low <= 0.85 <= found.high
    assert 0.91 <= held / 400 <= 0.985


def test_a_perfect_score_is_not_told_as_certain() -> None:
    found = figure(np.ones(20, bool), np.arange(20))
    assert (found.share, found.high) == (1, 1)
    assert 0.8 < found.low < 0.9


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_conformal_sets_hold_the_truth_as_promised(rate: float) -> None:
    """Over 200 draws of 100 images held back, the mean coverage lies at or just above 1 - rate."""
    x, y = blobs([400] * 4, apart=3.5)
    head = fit(x, y, list("abcd"))
    new, truth = blobs([1500] * 4, apart=3.5, seed=3)
    shares = head.probabilities(new)
    scores = scores_of(shares, truth)
    generator = np.random.default_rng(0)
    covered, wrong = [], []
    for _ in range(200):
        mixed = generator.permutation(len(truth))
        held, asked = mixed[:100], mixed[100:2100]
        most = threshold(scores[held], rate)
        assert most is not None
        covered.append(sets_of(shares[asked], most)[np.arange(2000), truth[asked]].mean())
        names = named(shares[asked], most)
        wrong.append(((names != UNSURE) & (names != truth[asked])).mean())
    assert 1 - rate - 0.01 <= np.mean(covered) <= 1 - rate + 1 / 101 + 0.01
    assert np.mean(wrong) <= rate


def test_too_few_images_held_back_make_every_image_unsure() -> None:
    assert needed(0.1) == 9
    assert needed(0.01) == 99
    assert threshold(np.zeros(8, np.float32), 0.1) is None
    assert threshold(np.zeros(9, np.float32), 0.1) == 0
    shares = np.array([[0.99, 0.01], [0.5, 0.5]], np.float32)
    assert named(shares, None).tolist() == [UNSURE, UNSURE]
    assert named(shares, 0.2).tolist() == [0, UNSURE]


def test_what_is_asked_is_uncertain_and_unlike() -> None:
    """Between two clouds lie three knots of copies: one of each is asked, and nothing of the clouds."""
    x, y = blobs([30, 30], apart=14)
    head = fit(x, y, ["a", "b"])
    middle = x[y == 0].mean(axis=0) / 2 + x[y == 1].mean(axis=0) / 2
    sideways = np.linalg.svd(np.stack([x[y == 0].mean(axis=0) - x[y == 1].mean(axis=0)]))[2][1:4]
    knots = np.repeat(middle + 6 * sideways, 10, axis=0)
    pool = np.concatenate([x, knots + 0.001]).astype(np.float32)
    shares = head.probabilities(pool)
    rows = ask(pool, shares, 3, known_KD=x)
    assert doubt_of(shares)[rows].min() > 0.5
    assert sorted((rows - 60) // 10) == [0, 1, 2]


def test_asking_without_a_head_takes_one_of_each_group() -> None:
    x, y = blobs([40, 40, 40, 40], apart=25)
    assert sorted(y[ask(x, None, 4)]) == [0, 1, 2, 3]
    assert ask(x[:3], None, 12).tolist() == [0, 1, 2]
    assert len(ask(x[:0], None, 12)) == 0


def test_while_labels_are_few_what_lies_near_them_is_not_asked_again() -> None:
    """Of eight clouds four have a label each: the other four are asked, whatever the head doubts."""
    x, y = blobs([30] * 8, apart=25)
    first = np.array([np.flatnonzero(y == cloud)[0] for cloud in range(4)])
    free = np.setdiff1d(np.arange(len(x)), first)
    shares = np.full((len(free), 4), 0.25, np.float32)
    asked = free[ask(x[free], shares, 4, known_KD=x[first])]
    assert sorted(y[asked]) == [4, 5, 6, 7]


def test_a_number_that_few_labelled_images_share_by_chance_does_not_decide_about_the_next() -> None:
    """One number is nearly the same in both labelled images, and large in the others of their clouds."""
    x, y = blobs([40, 40], apart=25)
    x = np.concatenate([x, np.zeros((80, 1), np.float32)], axis=1)
    few = np.array([0, 40])
    x[:, -1] = np.where(
        np.isin(np.arange(80), few), 1e-3 * y, 3 * np.random.default_rng(0).normal(size=80)
    )
    head = fit(x[few], y[few], ["a", "b"], standard=standard_of(x))
    assert (head.probabilities(x).argmax(axis=1) == y).mean() > 0.95
    alone = fit(x[few], y[few], ["a", "b"])
    assert (alone.probabilities(x).argmax(axis=1) == y).mean() < 0.8
