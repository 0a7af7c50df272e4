"""`jepack sweep`: what it refuses, and that its score is the paper's on the same views for all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jepack import bundle as bundles
from jepack.encoder import build_encoder, load_encoder
from jepack.errors import ConfigError
from jepack.sigreg import random_directions
from jepack.sources import Source
from training.commands.ranking import fixed_views, ranking_loss
from training.commands.sweeping import Run, combinations, run_all, show
from training.parallel import Ranks
from training.run import prepare
from training.settings import TrainConfig, recipe


def tiny() -> TrainConfig:
    return replace(
        recipe("quickstart"), encoder="test_vit", size=32, eval_size=32, global_views=2, slices=32,
        images_per_step=16, epochs=1, minutes=None, projector_hidden=32, projection_dims=8, workers=1,
        precision="fp32",
    )  # fmt: skip


def test_a_grid_gives_all_combinations_in_the_fields_own_types() -> None:
    found = combinations(tiny(), ["sigreg_weight=0.02,0.05", "slices=64,128"])
    assert len(found) == 4
    assert {"sigreg_weight": 0.05, "slices": 64} in found


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ("projection_dims=32,64", "cannot be ranked against each other"),
        ("sigreg_wait=0.1", "no setting called"),
        ("sigreg_weight=2", "must be in"),
        ("epochs=many", "epochs takes float"),
    ],
)
def test_a_grid_that_cannot_be_ranked_is_refused(grid: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        combinations(tiny(), [grid])


def test_ijepa_runs_have_no_such_score() -> None:
    with pytest.raises(ConfigError, match="cannot rank ijepa"):
        combinations(recipe("ijepa"), ["learning_rate=1e-3"])


@torch.no_grad()
def paper_loss(encoder: Any, views: Any, weight: float) -> float:
    """arXiv:2511.08544 in float64, of two global views: (1 - lambda) prediction + lambda SIGReg, with the
    batch's own statistics in BatchNorm. SIGReg is integrated over [-3, 3] in 17 knots for each direction."""
    z = encoder.train().projector(encoder.backbone(views.global_views.flatten(0, 1)))
    encoder.eval()
    z = z.double().unflatten(0, views.global_views.shape[:2])
    prediction = (
        ((z[0] - z[1]) / 2).square().mean()
    )  # half of their distance is that to the mean of both
    t = torch.linspace(0, 3, 17, dtype=torch.float64)
    normal = torch.exp(-t.square() / 2)
    directions = random_directions(8, 32, step=views.step, seed=0).double()
    angles = t * (z @ directions)[..., None]  # [V, B, M, T]
    real, imaginary = angles.cos().mean(dim=1) - normal, angles.sin().mean(dim=1)
    distance = (real.square() + imaginary.square()) * normal
    statistic = 2 * z.shape[1] * torch.trapezoid(distance, t).mean()
    return float((1 - weight) * prediction + weight * statistic)


def test_a_score_is_taken_with_directions_that_no_setting_of_the_run_changes(
    digits_folder: Path, tmp_path: Path
) -> None:
    encoder = build_encoder("test_vit", size=32, channels=1, hidden=32, projection_dims=8)
    alone = Ranks(0, 1, torch.device("cpu"))
    source = Source.of(digits_folder)
    views = fixed_views(prepare(tiny(), source, alone, cache_root=tmp_path))
    found = {
        ranking_loss(encoder, views, replace(tiny(), **change), tiny())
        for change in ({}, {"seed": 5}, {"slices": 64}, {"learning_rate": 1.0})
    }
    assert len(found) == 1


def test_runs_are_ranked_by_loss_over_lambda_to_the_power_of_0_4(
    digits_folder: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    options: dict[str, Any] = {
        "device": "cpu", "cache_root": tmp_path / "cache", "say": said.append,
    }  # fmt: skip
    changes = combinations(tiny(), ["sigreg_weight=0.02,0.2"])
    found = run_all(tiny(), changes, digits_folder, tmp_path / "out", **options)
    assert len(said) == 2
    assert [run.score for run in found] == sorted(run.score or 0.0 for run in found)
    alone = Ranks(0, 1, torch.device("cpu"))
    source = Source.of(digits_folder)
    views = fixed_views(prepare(tiny(), source, alone, cache_root=tmp_path / "cache"))
    assert len(views) == 4
    for run in found:
        weight = run.changed["sigreg_weight"]
        encoder, _ = load_encoder(bundles.load(tmp_path / "out" / run.name / "bundle"))
        loss = sum(paper_loss(encoder, batch, weight) for batch in views) / 4
        assert run.loss == pytest.approx(loss, rel=1e-5)
        assert run.score == pytest.approx(loss / weight**0.4, rel=1e-5)
        assert run.knn is not None
    written = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert [Run(**entry) for entry in written] == found
    stamps = [(tmp_path / "out" / run.name / "log.jsonl").stat().st_mtime_ns for run in found]
    assert run_all(tiny(), changes, digits_folder, tmp_path / "out", **options) == found
    again = [(tmp_path / "out" / run.name / "log.jsonl").stat().st_mtime_ns for run in found]
    assert again == stamps  # nothing was trained twice


def test_the_table_warns_where_lambdas_differ(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    one = {"score": 0.5, "loss": 0.1, "embedding_rank": 3.0}
    runs = [Run(str(weight), {"sigreg_weight": weight}, **one) for weight in (0.02, 0.05)]
    show(runs, tmp_path)
    assert "Lambda differs" in capsys.readouterr().out
    show(runs[:1], tmp_path)
    assert "Lambda differs" not in capsys.readouterr().out
