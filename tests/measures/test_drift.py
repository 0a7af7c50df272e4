"""Nulls and the watching of projections: what they promise of ordinary images, and what they must see."""

from __future__ import annotations

import json
import math
from functools import cache

import numpy as np
import pytest

from jepack.errors import ConfigError, DataError
from jepack.measures import FAULTS, DriftReport, Null, Watcher, fit_null, samples
from jepack.measures.isotropy import kolmogorov

DIMS = 12


def domain(count: int, seed: int) -> np.ndarray:
    """Images of one domain: two unequal clusters with heavy tails, far from N(0, I)."""
    rng = np.random.default_rng([seed, 11])
    x = rng.standard_t(6, size=(count, DIMS))
    return x * np.linspace(0.3, 1.5, DIMS) + np.where(rng.random((count, 1)) < 0.3, 2.0, -0.5)


@cache
def ordinary() -> Null:
    return fit_null(domain(600, 0), runs=48)


@cache
def knowing() -> Null:
    """A null that was shown what two faults do to its first images."""
    x = domain(600, 0)
    faulted = {"darker": x[:200] + MOVED, "blurred": x[:200] * 0.8}
    return fit_null(x, faulted=faulted, runs=48)


MOVED = np.linspace(-0.2, 0.3, DIMS)


def test_atypicality_is_uniform_on_images_that_did_not_make_the_null() -> None:
    unseen = np.concatenate(
        [fit_null(domain(400, s), runs=1).p_values(domain(200, 99 + s)) for s in range(10)]
    )
    # 2,000 values of ten nulls: one null alone strays by the luck of its 400 scores.
    assert kolmogorov(unseen) < 1.63 / math.sqrt(2000) + 0.02
    assert abs((unseen <= 0.05).mean() - 0.05) < 0.02


def test_images_with_equal_scores_get_a_careful_p_value() -> None:
    """Half of all images are the same picture; a share p of them at most may have a value of p."""
    rng = np.random.default_rng(3)
    x = domain(800, 3).astype(np.float32)
    x[rng.random(800) < 0.5] = x[0]
    null = fit_null(x[:400], runs=1)
    p = null.p_values(x[400:])
    assert all((p <= level).mean() <= level + 0.06 for level in (0.05, 0.1, 0.3, 0.5, 0.9))
    assert len(set(p[(x[400:] == x[0]).all(axis=1)])) == 1


def test_strange_images_are_atypical() -> None:
    assert (ordinary().p_values(domain(100, 5) * 4) <= 0.05).mean() > 0.8


def test_no_embedding_is_in_a_null_and_it_survives_its_file() -> None:
    null = knowing()
    tensors = null.tensors()
    again = Null.of(tensors)
    x = domain(300, 7)
    np.testing.assert_array_equal(null.features(x), again.features(x))
    assert null.threshold(1e6) == again.threshold(1e6)
    held_out = domain(600, 0).astype(np.float32)
    rows = [row for value in tensors.values() if value.ndim == 2 for row in (*value, *value.T)]
    rows = [row for row in rows if len(row) == DIMS]
    distances = [np.abs(held_out - row).max(axis=1).min() for row in rows]
    assert min(distances) > 0.1


@pytest.mark.parametrize("batch", [1, 7, 16, 300])
def test_what_a_watcher_finds_does_not_depend_on_the_batches(batch: int) -> None:
    x = domain(1500, 8)
    whole, parts = Watcher(ordinary()), Watcher(ordinary())
    expected = whole.add(x)
    found = np.concatenate([parts.add(x[i : i + batch]) for i in range(0, len(x), batch)])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.shape == (1500 // 16, 7, 8)
    assert json.dumps(whole.report().to_json())[:60] == json.dumps(parts.report().to_json())[:60]


def test_a_window_is_of_the_latest_images_alone() -> None:
    x = domain(4096 + 320, 9)
    long, fresh = Watcher(ordinary()), Watcher(ordinary())
    long.add(domain(5000 - 5000 % 16, 10) + 3)
    long.add(x)
    fresh.add(x)
    for a, b in zip(long.report().windows, fresh.report().windows, strict=True):
        assert a.length == b.length
        assert a.z == pytest.approx(b.z, abs=1e-6)
        assert a.atypical == pytest.approx(b.atypical)


def test_ordinary_images_alarm_no_more_often_than_promised() -> None:
    """Six nulls of one domain, each watching 10,000 fresh images of it: at most 12 alarms are promised, and
    chance makes more than 24 of them once in a thousand times. The null's own error must not alarm."""
    alarms = 0
    for seed in range(6):
        watcher = Watcher(fit_null(domain(500, seed), runs=24), images_per_false_alarm=5_000)
        watcher.add(domain(10_000, 1000 + seed))
        alarms += watcher.report().alarms
    assert alarms <= 24


@pytest.mark.parametrize(
    ("change", "within"),
    [
        (lambda x: x + 1.0, 64),
        (lambda x: x * 2, 64),
        (lambda x: np.abs(x), 64),
        (lambda x: np.where(np.arange(len(x))[:, None] % 10 == 0, x * 6, x), 512),
        (lambda x: x + 0.5, 1024),
        (lambda x: x * 0.7, 64),
    ],
    ids=[
        "another mean",
        "another scale",
        "another shape",
        "a tenth strange",
        "a weak shift",
        "small",
    ],
)
def test_drift_alarms_within_a_window(change, within: int) -> None:
    watcher = Watcher(ordinary())
    watcher.add(domain(4096, 20))
    assert not watcher.report().alarm
    watcher.add(change(domain(within, 21)))
    report = watcher.report()
    assert report.alarm
    assert report.alarms == 1
    assert 4096 < report.alarm_at <= 4096 + within


def test_looking_back_sees_what_few_held_out_images_hide() -> None:
    """A null of 100 images does not know a mean of 32 dimensions to .5 standard deviations; the images before
    the change do."""
    normal, delays = np.random.default_rng(40).standard_normal((100 + 4096 + 2048, 32)), []
    normal[100 + 4096 :] += 0.1
    for looks_back in (True, False):
        null = fit_null(normal[:100], looks_back=looks_back, runs=24)
        watcher = Watcher(null)
        assert not (watcher.add(normal[100:4196]) > watcher.threshold).any()
        over = (watcher.add(normal[4196:]) > watcher.threshold).any(axis=(1, 2))
        delays.append(16 * int(over.argmax()) if over.any() else 99_999)
    assert delays[0] < min(delays[1], 1024)


def test_coordinates_that_no_longer_move_together_are_seen() -> None:
    """Each one's values are those that it had, among other images."""
    watcher = Watcher(ordinary())
    watcher.add(domain(4096, 41))
    assert not watcher.report().alarm
    z = watcher.add(np.random.default_rng(0).permuted(domain(1024, 42), axis=0))
    assert ordinary().looking_back[-1] == "covariance"
    assert np.nanmax(z[..., -1]) > watcher.threshold


def test_what_looks_back_waits_for_the_longest_window() -> None:
    watcher = Watcher(ordinary())
    watcher.add(domain(4095, 44))
    assert all(window.change_z != window.change_z for window in watcher.report().windows)
    watcher.add(domain(1, 45))
    *shorter, longest = watcher.report().to_json()["windows"]
    assert all(window["change_z"] is not None for window in shorter)
    assert all(window["change"] < 1 for window in shorter)
    assert longest["change_z"] is None


def test_a_known_fault_is_seen_sooner_and_named() -> None:
    delays = []
    for null in (knowing(), ordinary()):
        watcher = Watcher(null)
        watcher.add(domain(4096, 30))
        assert not watcher.report().alarm
        watcher.add(domain(4096, 31) + MOVED / 2)
        report = watcher.report()
        delays.append((report.alarm_at or 99_999) - 4096)
        longest = report.windows[-1]
        assert (longest.likeliest == "darker") == (longest.fault_z > report.threshold)
    assert longest.likeliest is None
    assert delays[0] < delays[1]


def test_a_fault_that_moves_nothing_is_not_known() -> None:
    x = domain(300, 32)
    null = fit_null(x, faulted={"noisy": x[:100], "grey": x[:100] + 1}, runs=2)
    assert null.known.tolist() == [FAULTS.index("grey")]


@pytest.mark.parametrize(
    ("name", "y"),
    [
        ("haunted", domain(100, 0)),
        ("grey", domain(100, 0)[:, 1:]),
        ("grey", domain(5, 0)),
        ("grey", domain(100, 0) * np.inf),
    ],
    ids=["unknown", "narrow", "few", "infinite"],
)
def test_what_is_no_look_of_a_fault_is_refused(name: str, y: np.ndarray) -> None:
    with pytest.raises(DataError, match=f"fault '{name}'"):
        fit_null(domain(100, 0), faulted={name: y})


def test_a_promise_of_the_normal_law_takes_the_error_of_a_mean_away() -> None:
    """Eighty images put a mean in 16 dimensions .45 standard deviations off; N(0, I) is known exactly."""
    x = np.random.default_rng(4).standard_normal((80, 16))
    plain, promised = fit_null(x, runs=24), fit_null(x, gaussian=True, runs=24)
    assert np.linalg.norm(promised.mean) < np.linalg.norm(plain.mean) / 2
    long = list(plain.windows).index(2048)
    shift = plain.channels.index("shift")
    assert promised.moments[shift, long, 0] < plain.moments[shift, long, 0]
    far = fit_null(x + 1, gaussian=True, runs=2)  # the promise does not hold, the images say
    np.testing.assert_allclose(far.mean, (x + 1).mean(axis=0), atol=0.15)


def test_a_null_from_before_sizes_and_faults_still_watches() -> None:
    tensors = ordinary().tensors()
    for name in ("known", "squares", "changes"):
        del tensors[name]
    tensors["moments"] = tensors["moments"][:3]
    old = Null.of(tensors)
    assert old.channels == ("distance", "shift", "surprise")
    watcher = Watcher(old)
    assert watcher.add(domain(4096, 20)).shape == (256, 7, 3)
    assert not watcher.report().alarm
    watcher.add(domain(64, 21) + 1)
    report = watcher.report()
    assert report.alarm
    assert report.to_json()["windows"][0]["size_z"] is None
    assert "jepack_drift_size_z" not in {sample.name for sample in samples(report)}


def test_an_alarm_ends_when_the_images_are_ordinary_again() -> None:
    watcher = Watcher(ordinary())
    watcher.add(domain(256, 22) + 2)
    assert watcher.report().alarm
    watcher.add(domain(8192, 23))
    assert not watcher.report().alarm
    assert watcher.report().alarms == 1


def test_a_rarer_false_alarm_needs_a_higher_threshold() -> None:
    thresholds = [ordinary().threshold(10.0**power) for power in range(2, 13)]
    assert thresholds == sorted(thresholds)
    assert thresholds[-1] > thresholds[4] > 3


def test_a_report_tells_figures_of_full_windows_only() -> None:
    watcher = Watcher(ordinary())
    watcher.add(domain(100, 24) + 1)
    told = watcher.report().to_json()
    assert [window["full"] for window in told["windows"]] == [True] + [False] * 6
    assert told["windows"][1]["z"] is None
    first = told["windows"][0]
    assert first["scale"] == pytest.approx(1, abs=0.3)
    spread = math.sqrt(float(ordinary().spread))
    assert first["mean_shift"] == pytest.approx(math.sqrt(DIMS) / spread, abs=0.25)
    assert told["images"] == 100
    json.dumps(told, allow_nan=False)


def test_samples_are_those_prometheus_takes() -> None:
    watcher = Watcher(ordinary())
    watcher.add(domain(64, 25))
    found = list(samples(watcher.report(), {"model": "cells"}))
    assert {sample.labels["model"] for sample in found} == {"cells"}
    names = [sample.name for sample in found]
    assert len(set(names)) == len([n for i, n in enumerate(names) if i == 0 or names[i - 1] != n])
    assert next(s.value for s in found if s.name == "jepack_drift_images_total") == 64
    assert {s.labels["window"] for s in found if s.name == "jepack_drift_distance_z"} == {"64"}
    assert all(math.isfinite(sample.value) for sample in found)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (np.zeros((63, 4)), "64 or more"),
        (np.zeros(100), "64 or more"),
        (np.full((100, 4), np.nan), "finite"),
        (np.ones((100, 4)), "vary"),
    ],
)
def test_a_null_of_unusable_projections_is_refused(x: np.ndarray, text: str) -> None:
    with pytest.raises(DataError, match=text):
        fit_null(x)


def test_a_batch_that_cannot_be_watched_leaves_no_trace() -> None:
    watcher = Watcher(ordinary())
    for bad in (np.zeros((3, DIMS + 1)), np.full((3, DIMS), np.inf)):
        with pytest.raises(DataError):
            watcher.add(bad)
    assert watcher.report().images == 0
    assert isinstance(watcher.report(), DriftReport)
    with pytest.raises(ConfigError, match="1 to"):
        Watcher(ordinary(), images_per_false_alarm=float("nan"))
