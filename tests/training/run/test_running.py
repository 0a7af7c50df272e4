"""A step that is not applied leaves nothing behind, in BatchNorm least of all."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from training.parallel import Ranks
from training.run import Session, build_session, one_step, seed_everything
from training.run.running import RunningFigures
from training.settings import TrainConfig, recipe
from training.views import Views

ALONE = Ranks(0, 1, torch.device("cpu"))


def tiny(**changes: Any) -> TrainConfig:
    settings = {
        "encoder": "test_resnet", "size": 32, "eval_size": 32, "global_views": 2, "slices": 16,
        "images_per_step": 8, "minutes": None, "projector_hidden": 32, "projection_dims": 8,
        "precision": "fp32", "channels": 1,
    }  # fmt: skip
    return replace(recipe("quickstart"), **(settings | changes))


def session_of(config: TrainConfig) -> Session:
    seed_everything(config, 0, ALONE)
    session = build_session(config, ALONE)
    session.state.total = 10
    return session


def views(step: int, fill: float | None = None) -> Views:
    pixels = torch.randn(2, 8, 1, 32, 32, generator=torch.Generator().manual_seed(step))
    if fill is not None:
        pixels[0, 3] = fill
    return Views(step, pixels, None)


def everything(session: Session) -> dict[str, torch.Tensor]:
    state = session.state
    average = {} if state.average is None else state.average.state_dict()
    found = {f"trained.{k}": v for k, v in state.method.trained.state_dict().items()}
    return copy.deepcopy(found | {f"average.{k}": v for k, v in average.items()})


@pytest.mark.parametrize(
    ("fill", "change"),
    [
        (float("nan"), {}),
        (3e38, {}),
        (float("inf"), {"accumulate": 2}),
        (float("nan"), {"activation_checkpointing": True}),
        (float("nan"), {"encoder": "mobilenetv3_small_050"}),
    ],
    ids=["nan", "overflow", "pieces", "checkpointing", "BatchNormAct"],
)
def test_a_step_that_is_not_finite_changes_no_weight_and_no_running_figure(
    fill: float, change: dict[str, Any]
) -> None:
    config = tiny(**change)
    session = session_of(config)
    one_step(config, session, views(0), ALONE)
    before = everything(session)
    assert any("running_var" in name for name in before)
    one_step(config, session, views(1, fill), ALONE)
    assert session.bad_steps == 1
    after = everything(session)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    one_step(config, session, views(2), ALONE)
    assert all(value.isfinite().all() for value in everything(session).values())
    assert not torch.equal(
        everything(session)["trained.projector.1.running_mean"],
        before["trained.projector.1.running_mean"],
    )


def test_activation_checkpointing_counts_each_batch_once() -> None:
    """Its second pass through a block sees the same batch: the figures are those of one pass."""
    found = []
    for checkpointing in (False, True):
        session = session_of(tiny(activation_checkpointing=checkpointing))
        for step in range(3):
            one_step(tiny(), session, views(step), ALONE)
        found.append(everything(session))
    for name, value in found[0].items():
        if "running_" in name:
            torch.testing.assert_close(found[1][name], value)


def test_a_device_that_is_not_waited_for_settles_by_its_own_answer() -> None:
    norm = nn.BatchNorm1d(4)
    figures = RunningFigures(nn.Sequential(norm))
    for applied in (True, False):
        figures.keep()
        kept = {name: value.clone() for name, value in norm.named_buffers()}
        norm(torch.randn(8, 4) if applied else torch.full((8, 4), torch.nan))
        figures.settle(torch.tensor(applied))
        same = [torch.equal(value, kept[name]) for name, value in norm.named_buffers()]
        assert same == [not applied] * 3
