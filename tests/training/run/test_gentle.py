"""Learning on from trained weights: what is to stay does, to the bit; the backbone follows the projector."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jepack.errors import ConfigError
from jepack.sources import Source
from training.parallel import Ranks
from training.run import build_session, one_step, prepare
from training.run.gentle import backbone_share, freeze_stages
from training.settings import TrainConfig, recipe
from training.views import Views

ALONE = Ranks(0, 1, torch.device("cpu"))


def settings(**changes: Any) -> TrainConfig:
    return replace(
        recipe("quickstart"), encoder="test_resnet", channels=1, size=32, eval_size=32, slices=16,
        images_per_step=16, projector_hidden=32, projection_dims=8, precision="fp32", **changes,
    )  # fmt: skip


def moved(config: TrainConfig, steps: int) -> tuple[set[str], set[str]]:
    """Names of (the backbone's, the projector's) tensors that some steps of ten change."""
    torch.manual_seed(0)
    session = build_session(config, ALONE)
    session.state.total = 10
    encoder = session.state.method.encoder
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    for step in range(steps):
        images = torch.randn(config.global_views, 16, 1, 32, 32)
        one_step(config, session, Views(step, images, None), ALONE)
    changed = {n for n, value in encoder.state_dict().items() if not torch.equal(value, before[n])}
    backbone = {name.removeprefix("backbone.") for name in changed if name.startswith("backbone.")}
    return backbone, {name for name in changed if name.startswith("projector.")}


def test_frozen_stages_are_the_first_and_do_not_move() -> None:
    learnt = {n for n in moved(settings(), 2)[0] if n.endswith("weight")}
    frozen = {n for n in moved(settings(frozen_stages=0.4), 2)[0] if n.endswith("weight")}
    assert {
        "conv1.0.weight",
        "layer1.0.conv1.weight",
    } <= learnt - frozen  # the stem and one of four
    assert {n for n in learnt if n.startswith(("layer2", "layer3", "layer4"))} == frozen


def test_frozen_norms_keep_their_figures_and_learn_their_scale() -> None:
    figures = ("running_mean", "running_var", "num_batches_tracked")
    assert any(name.endswith(figures) for name in moved(settings(), 1)[0])
    backbone, projector = moved(settings(frozen_norms=True), 1)
    assert not any(name.endswith(figures) for name in backbone)
    assert "bn1.weight" in backbone
    assert any(name.endswith(figures) for name in projector)


def test_the_projector_learns_alone_first() -> None:
    config = settings(projector_first=0.3, frozen_norms=True)
    backbone, projector = moved(config, 3)
    assert not backbone
    assert projector
    assert moved(config, 4)[0]


def test_the_backbones_rate_grows_after_the_projectors_time_alone() -> None:
    config = settings(projector_first=0.2, backbone_rate=0.5)
    shares = [backbone_share(config, step, 10) for step in range(6)]
    assert shares == pytest.approx([0, 0, 0.25, 0.5, 0.5, 0.5])
    assert backbone_share(settings(), 0, 10) == 1


def test_the_recipe_says_what_it_needs(digits_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--init BUNDLE"):
        prepare(recipe("adapt"), Source.of(digits_folder), ALONE, cache_root=tmp_path)


def test_ijepa_has_none_of_it() -> None:
    with pytest.raises(ConfigError, match="LeJEPA"):
        replace(recipe("ijepa"), frozen_norms=True)


def test_a_network_without_stages_is_told() -> None:
    with pytest.raises(ConfigError, match="frozen_stages=0"):
        freeze_stages(torch.nn.Linear(2, 2), 0.5)
