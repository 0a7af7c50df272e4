"""A run that is lost stops, says what it saw, and leaves its last sound checkpoint.

Each way of being lost is put into the weights or gradients: how a run at a wild learning rate ends differs
from processor to processor.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jepack.errors import TrainingError
from training.methods import LeJEPA
from training.methods.lejepa import LossTerms
from training.methods.registry import METHODS
from training.run import load_newest
from training.settings import TrainConfig, recipe
from training.train import train
from training.watch import read_log


class Spoiled(LeJEPA):
    """LeJEPA whose step `lost_at` (counted from 1 in this process) and all after it are spoiled."""

    lost_at = 1
    steps = 0

    def backward(self, views: Any) -> LossTerms:
        self.steps += 1
        parts = super().backward(views)
        if self.steps >= self.lost_at:
            self.spoil_gradients()
        return parts

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        super().after_step(progress)
        if self.steps >= self.lost_at:
            self.spoil_weights(self.encoder.projector[-1])

    def spoil_gradients(self) -> None: ...

    def spoil_weights(self, last: Any) -> None:
        """`last` is the layer that makes the projections."""


class AtAPoint(Spoiled):
    def spoil_weights(self, last: Any) -> None:
        last.weight.zero_()
        last.bias.zero_()


class OnALine(Spoiled):
    def spoil_weights(self, last: Any) -> None:
        last.weight[1:] = 0


class FarApart(Spoiled):
    """Views a thousand times further from each other: a million times the loss."""

    lost_at = 30

    def spoil_weights(self, last: Any) -> None:
        torch.nn.init.eye_(last.weight).mul_(1000)


class WithoutGradients(Spoiled):
    lost_at = 5

    def spoil_gradients(self) -> None:
        for parameter in self.encoder.parameters():
            if parameter.grad is not None:
                parameter.grad.fill_(float("nan"))


def tiny(**changes: Any) -> TrainConfig:
    return replace(
        recipe("quickstart"), encoder="test_vit", size=32, eval_size=32, global_views=2, slices=32,
        images_per_step=16, epochs=60, minutes=None, projector_hidden=32, projection_dims=8, workers=1,
        precision="fp32", channels=1, evaluate_epochs=20, **changes,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "evaluate_epochs", "found"),
    [
        # Never evaluated on the way: an evaluation would see it first.
        (AtAPoint, 1000, "step 100: the projections lie at a point"),
        (OnALine, 10, "step 30: the projections have collapsed .effective rank 1.0"),
        (FarApart, 1000, "the loss has diverged"),
        (WithoutGradients, 1000, "3 steps in a row gave non-finite values"),
    ],
    ids=["point", "rank", "diverged", "not-finite"],
)
def test_a_lost_run_stops_and_says_the_loss_parts_and_what_to_try(
    digits_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: type[LeJEPA],
    evaluate_epochs: float,
    found: str,
) -> None:
    monkeypatch.setitem(METHODS, "lejepa", method)
    config = replace(tiny(), evaluate_epochs=evaluate_epochs)
    with pytest.raises(TrainingError, match=found) as caught:
        train(config, digits_folder, tmp_path / "run", device="cpu", cache_root=tmp_path)
    told = str(caught.value)
    assert caught.value.exit_code == 8
    assert all(part in told for part in ("step", "loss", "prediction", "regulariser", "Try"))
    assert not (tmp_path / "run" / "bundle").exists()


def test_no_checkpoint_holds_a_weight_that_is_not_finite(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "lejepa", WithoutGradients)
    config, run = tiny(checkpoint_minutes=0.0), tmp_path / "run"
    with pytest.raises(TrainingError) as caught:
        train(config, digits_folder, run, device="cpu", cache_root=tmp_path)
    newest = sorted((run / "checkpoints").iterdir())[-1]
    assert f"The last good checkpoint is {newest}" in str(caught.value)
    kept = load_newest(run, torch.device("cpu"), print)
    assert kept is not None
    assert all(value.isfinite().all() for value in kept["method"].values())


def test_a_healthy_run_is_left_alone(digits_folder: Path, tmp_path: Path) -> None:
    # A strong regulariser keeps it far from every limit: rank 2.6 of at least 1.2, SIGReg 0.3 of at
    # most 0.99 of a collapse (with the recipe's 0.02: 1.4 and 0.89).
    config, root = replace(tiny(), epochs=40, sigreg_weight=0.1), tmp_path / "cache"
    done = train(config, digits_folder, tmp_path / "run", device="cpu", cache_root=root)
    assert done is not None


def test_a_restarted_run_remembers_how_low_its_loss_has_been(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, options = tmp_path / "run", {"device": "cpu", "cache_root": tmp_path / "cache"}
    assert train(tiny(), digits_folder, run, stop_after=40, **options) is None
    before = [entry["loss"] for entry in read_log(run)[0]]
    monkeypatch.setitem(METHODS, "lejepa", FarApart)
    monkeypatch.setattr(FarApart, "lost_at", 1)
    with pytest.raises(TrainingError, match="the loss has diverged") as caught:
        train(tiny(), digits_folder, run, **options)
    lowest = float(str(caught.value).split("it was ")[1].split(";")[0])
    assert lowest == pytest.approx(min(medians(before)), rel=1e-3)


def medians(losses: list[float]) -> list[float]:
    """Over every 20 steps in a row."""
    return [float(np.median(losses[end - 20 : end])) for end in range(20, len(losses) + 1)]
