"""Two ranks act as one: work that rank 0 does alone, stops, failures, votes, BatchNorm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import processes
import pytest
import timm
import torch
from timm.layers import SplitBatchNorm2d
from torch import nn
from two_ranks import FAMILIES, play

from jepack.errors import ConfigError
from training.parallel import batchnorm, synchronise_batchnorm
from training.parallel.batchnorm import GlobalBatchNorm

Scenes = dict[str, list[dict[str, Any]]]


def played(device: str, out: Path) -> Scenes:
    """What both ranks saw in each scene."""
    processes.run_ranks([], 2, out / "said", before=(play, device, out))
    names = {path.stem[:-2] for path in out.glob("*.json")}
    return {
        name: [json.loads((out / f"{name}-{rank}.json").read_text()) for rank in (0, 1)]
        for name in names
    }


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    return played("cpu", tmp_path_factory.mktemp("two-ranks"))


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return played("cuda:0", tmp_path_factory.mktemp("two-ranks-gpu"))


def test_ranks_that_wait_hear_of_work_that_goes_on(on_cpu: Scenes) -> None:
    """However long it takes: no single wait is longer than that for one answer."""
    first, second = on_cpu["lone_work"]
    assert (first["found"], second["found"]) == ("done", None)
    assert first["answers"] == second["answers"] >= 5


def test_a_failure_of_lone_work_ends_all_ranks_with_its_exit_code(on_cpu: Scenes) -> None:
    first, second = on_cpu["failing_work"]
    assert first == {"error": "DataError", "text": "no images", "exit_code": 3}
    assert second["exit_code"] == 3
    assert "rank 1 ends with one that failed" in second["text"]


def test_a_signal_to_a_rank_that_waits_ends_the_work_of_the_first(on_cpu: Scenes) -> None:
    assert on_cpu["stopped_work"] == [{"stopped": True}] * 2


def test_a_signal_during_steps_is_heard_by_all_ranks_in_the_same_vote(on_cpu: Scenes) -> None:
    first, second = on_cpu["noted_stop"]
    assert (first["done"], second["done"]) == ("evaluated", None)
    assert first["heard"] == second["heard"] == [[False, False], [True, True], [True, True]]


@pytest.mark.parametrize("family", FAMILIES)
def test_batchnorm_over_two_ranks_is_that_of_one_process(on_cpu: Scenes, family: str) -> None:
    """Features, gradients and running figures, in double precision; with the activation it holds."""
    assert max(scene[family] for scene in on_cpu["batchnorm"]) < 1e-9


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_batchnorm_over_two_ranks_of_one_gpu_is_that_of_one_process(
    on_gpu: Scenes, family: str
) -> None:
    assert max(scene[family] for scene in on_gpu["batchnorm"]) < 1e-9


@pytest.mark.parametrize("family", FAMILIES)
def test_every_batchnorm_of_a_network_is_converted_and_keeps_its_activation(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batchnorm, "world_size", lambda: 2)
    net = timm.create_model(family, num_classes=0)
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    before = {
        name: getattr(m, "act", None) for name, m in net.named_modules() if isinstance(m, kinds)
    }
    modules = dict(synchronise_batchnorm(net).named_modules())
    assert before
    assert all(isinstance(modules[name], GlobalBatchNorm) for name in before)
    assert {name: getattr(modules[name], "act", None) for name in before} == before


def test_a_batchnorm_that_does_something_else_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batchnorm, "world_size", lambda: 2)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), SplitBatchNorm2d(4))
    with pytest.raises(ConfigError, match="1 is a SplitBatchNorm2d.*one process"):
        synchronise_batchnorm(net)
