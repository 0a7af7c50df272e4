"""A run that is lost stops, says what it saw, and leaves its last sound checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jepack.errors import TrainingError
from training.checkpoint import load_newest
from training.config import TrainConfig, recipe
from training.curves import read_log
from training.train import train


def tiny(**changes: Any) -> TrainConfig:
    return replace(
        recipe("quickstart"), encoder="test_vit", size=32, eval_size=32, global_views=2, slices=32,
        images_per_step=16, epochs=60, minutes=None, projector_hidden=32, projection_dims=8, workers=1,
        precision="fp32", channels=1, evaluate_epochs=20, **changes,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"sigreg_weight": 1e-6}, "step 100: the projections lie at a point"),
        ({"learning_rate": 2.0}, "the projections have collapsed .effective rank"),
        ({"learning_rate": 10.0, "gradient_clip": 1.0}, "the loss has diverged"),
        ({"learning_rate": 30.0}, "3 steps in a row gave non-finite values"),
    ],
    ids=["point", "rank", "diverged", "not-finite"],
)
def test_a_lost_run_stops_and_says_the_loss_parts_and_what_to_try(
    digits_folder: Path, tmp_path: Path, changes: dict[str, Any], found: str
) -> None:
    with pytest.raises(TrainingError, match=found) as caught:
        train(tiny(**changes), digits_folder, tmp_path / "run", device="cpu", cache_root=tmp_path)
    told = str(caught.value)
    assert caught.value.exit_code == 8
    assert all(part in told for part in ("step", "loss", "prediction", "regulariser", "Try"))
    assert not (tmp_path / "run" / "bundle").exists()


def test_no_checkpoint_holds_a_weight_that_is_not_finite(
    digits_folder: Path, tmp_path: Path
) -> None:
    config, run = tiny(learning_rate=30.0, checkpoint_minutes=0.0), tmp_path / "run"
    with pytest.raises(TrainingError) as caught:
        train(config, digits_folder, run, device="cpu", cache_root=tmp_path)
    newest = sorted((run / "checkpoints").iterdir())[-1]
    assert f"The last good checkpoint is {newest}" in str(caught.value)
    kept = load_newest(run, torch.device("cpu"), print)
    assert kept is not None
    assert all(value.isfinite().all() for value in kept["method"].values())


def test_a_healthy_run_is_left_alone(digits_folder: Path, tmp_path: Path) -> None:
    config, root = replace(tiny(), epochs=40), tmp_path / "cache"
    done = train(config, digits_folder, tmp_path / "run", device="cpu", cache_root=root)
    assert done is not None


def test_a_restarted_run_remembers_how_low_its_loss_has_been(
    digits_folder: Path, tmp_path: Path
) -> None:
    run, options = tmp_path / "run", {"device": "cpu", "cache_root": tmp_path / "cache"}
    assert train(tiny(), digits_folder, run, stop_after=60, **options) is None
    before = [entry["loss"] for entry in read_log(run)[0]]
    wild = tiny(learning_rate=10.0, gradient_clip=1.0)
    with pytest.raises(TrainingError, match="the loss has diverged") as caught:
        train(wild, digits_folder, run, **options)
    lowest = float(str(caught.value).split("it was ")[1].split(";")[0])
    assert lowest == pytest.approx(min(medians(before)), rel=1e-3)


def medians(losses: list[float]) -> list[float]:
    """Over every 20 steps in a row."""
    return [float(np.median(losses[end - 20 : end])) for end in range(20, len(losses) + 1)]
