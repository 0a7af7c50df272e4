"""The isotropy report: honest at N(0, I), and it sees what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jepack.errors import DataError
from jepack.measures import isotropy


def gaussian(samples: int, dimensions: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((samples, dimensions))


def statistics(samples: int, dimensions: int, trials: int) -> tuple[np.ndarray, np.ndarray]:
    """The statistic at N(0, I), `trials` times, and the directions."""
    directions = isotropy.random_directions(dimensions, 64, 0)
    draws = (gaussian(samples, dimensions, seed) for seed in range(trials))
    return np.array([isotropy.sliced_statistic(x, directions).mean() for x in draws]), directions


@pytest.mark.parametrize(("samples", "dimensions"), [(128, 16), (256, 64)])
def test_the_computed_null_is_the_simulated_one(samples: int, dimensions: int) -> None:
    found, directions = statistics(samples, dimensions, 400)
    mean, deviation, skew = isotropy.null_moments(directions)
    assert found.mean() == pytest.approx(mean, abs=4 * deviation / 20)
    assert found.std() == pytest.approx(deviation, rel=0.15)
    p = np.array([isotropy.gamma_tail((value - mean) / deviation, skew) for value in found])
    assert 0.5 * 0.1 < (p <= 0.1).mean() < 1.6 * 0.1
    assert isotropy.kolmogorov(p) < 1.63 / 20  # 99 % point of Kolmogorov's law at 400 draws


@pytest.mark.slow
@pytest.mark.parametrize("samples", [128, 512, 4096])
@pytest.mark.parametrize("dimensions", [16, 64, 512])
def test_the_false_alarm_rate_at_one_percent_is_one_percent(samples: int, dimensions: int) -> None:
    torch = pytest.importorskip("torch")
    from benchmarks.isotropy_power import false_alarms

    torch.set_num_threads(2)
    rate = false_alarms(samples, dimensions, 10_000)["rates"]["0.01"]
    assert rate == pytest.approx(0.01, abs=0.003)


def test_a_gaussian_is_isotropic_by_every_measure() -> None:
    found = isotropy.report(gaussian(2000, 32))
    assert found.p_value > 0.01
    assert found.effective_rank == pytest.approx(32, rel=0.03)
    assert found.rankme == pytest.approx(32, rel=0.03)
    assert found.variance == pytest.approx(1, abs=0.05)
    assert found.norm_tail == pytest.approx(0.01, abs=0.008)
    assert found.norm_distance < 0.04
    assert found.uniformity < -3.3
    assert (found.dead_dimensions, found.silent_directions) == (0, 0)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: x + 0.1,
        lambda x: x * 1.1,
        lambda x: x * (np.arange(64) >= 16),
        lambda x: x * np.random.default_rng(1).exponential(size=(len(x), 1)),
        lambda x: x @ np.kron(np.eye(32), np.array([[1, 0.5], [0, 0.75**0.5]])),
    ],
    ids=["mean shift", "scale", "dead", "heavy tails", "correlated"],
)
def test_the_test_sees_what_is_wrong(spoil) -> None:  # type: ignore[no-untyped-def]
    assert isotropy.report(gaussian(1024, 64)).p_value > 0.01
    assert isotropy.report(spoil(gaussian(1024, 64))).p_value < 0.01


def test_collapse_gives_the_value_of_theory() -> None:
    found = isotropy.report(np.zeros((100, 8)))
    assert found.statistic == pytest.approx(0.402 * 100, rel=0.01)
    assert found.effective_rank == 0
    assert found.condition_number == np.inf
    assert found.to_json()["condition_number"] is None


def test_a_dead_rotated_direction_is_seen_though_no_coordinate_is_dead() -> None:
    x = gaussian(500, 16)
    rotation, _ = np.linalg.qr(gaussian(16, 16, seed=1))
    x[:, 8:] = 0
    found = isotropy.report(x @ rotation)
    assert (found.dead_dimensions, found.silent_directions) == (0, 8)


@pytest.mark.parametrize("dimensions", [4, 16, 64, 512])
def test_norm_p_values_are_uniform_at_the_target(dimensions: int) -> None:
    p = isotropy.norm_p_values(gaussian(20_000, dimensions))
    assert isotropy.kolmogorov(p) < 0.015
    assert (p <= 0.01).mean() == pytest.approx(0.01, abs=0.003)


def test_calibration_whitens_and_does_not_inflate_a_collapsed_direction() -> None:
    x = gaussian(4000, 8) @ np.diag([9, 3, 1, 1, 1, 0.5, 0.5, 1e-9]) + 5
    found = isotropy.report(isotropy.fit_calibration(x).apply(x))
    assert found.mean_norm < 1e-3
    assert found.spectrum[0] == pytest.approx(1, abs=0.05)
    assert found.spectrum[-1] < 1e-6


@pytest.mark.parametrize("samples", [64, 128, 4096])
def test_calibration_from_few_images_keeps_unseen_ones_near_unit_variance(samples: int) -> None:
    spread = np.geomspace(3, 0.1, 32)
    fitted = isotropy.fit_calibration(gaussian(samples, 32) * spread + 1)
    unseen = isotropy.report(fitted.apply(gaussian(4000, 32, seed=1) * spread + 1))
    assert unseen.variance == pytest.approx(1, rel={64: 0.2, 128: 0.05, 4096: 0.05}[samples])


@pytest.mark.parametrize("bad", [np.zeros((4, 3)), np.zeros(9), np.full((9, 2), np.nan)])
def test_what_cannot_be_measured_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(DataError):
        isotropy.report(bad)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jepack", "isotropy", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_measures_files_of_embeddings(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "e.npz", good=gaussian(300, 16), shifted=gaussian(300, 16) + 1, ids=np.arange(9)
    )
    done = run(str(tmp_path / "e.npz"), "--json", "--picture", str(tmp_path / "p.png"))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {"good", "shifted"}
    assert found["good"]["p_value"] > 0.01 > found["shifted"]["p_value"]
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert "effective rank" in run(str(tmp_path / "e.npz")).stdout


def test_the_command_never_unpickles(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    done = run(str(tmp_path / "e.npy"))
    assert done.returncode == 3
    assert "not a .npy or .npz file of numbers" in done.stderr
    assert "allow_pickle" not in done.stderr
