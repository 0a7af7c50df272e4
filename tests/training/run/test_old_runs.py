"""A run that an earlier version began is continued by this one. See tests/data/README.md for its making."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet

from training.run import checkpoint, encoder_of
from training.settings import TrainConfig
from training.train import train
from training.watch import read_log

RUN = Path(__file__).parents[2] / "data" / "run_060597d.tar.xz"
# The losses of the two steps that were left, as that version itself went on.
LOSSES = (0.1167669, 0.1302116)

default_cfgs = generate_default_cfgs(
    {
        "old_run_resnet.untrained": {
            "input_size": (3, 16, 16), "pool_size": (1, 1), "first_conv": "conv1", "classifier": "fc",
        }
    }
)  # fmt: skip


@register_model
def old_run_resnet(pretrained: bool = False, **options: Any) -> Any:
    """Small enough that its checkpoint can lie beside the tests."""
    shape = {"block": BasicBlock, "layers": (1, 1, 1, 1), "channels": (4, 4, 8, 8), "stem_width": 4}
    return build_model_with_cfg(ResNet, "old_run_resnet", pretrained, **shape, **options)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with tarfile.open(RUN) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "run"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Those it was trained on, to the byte: a BMP depends on no compressor."""
    generator = np.random.default_rng(0)
    for number in range(32):
        folder = tmp_path / "data" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.bmp")
    return tmp_path / "data"


def test_a_run_of_an_earlier_version_is_continued_where_it_stopped(
    run: Path, images: Path, tmp_path: Path
) -> None:
    config = TrainConfig.from_json(json.loads((run / "config.json").read_text()))
    bundle = train(config, images, run, device="cpu", cache_root=tmp_path / "cache")
    assert bundle is not None
    steps, _ = read_log(run)
    assert [entry["step"] for entry in steps] == list(range(6))
    assert [entry["loss"] for entry in steps[4:]] == pytest.approx(LOSSES, rel=1e-3)
    assert json.loads((run / "history.json").read_text()) == []  # nothing differs


def test_a_checkpoint_of_an_earlier_version_gives_its_encoder(run: Path) -> None:
    folder = checkpoint.folder_of(run, 4)
    encoder, look = encoder_of(folder)
    found = checkpoint.load(folder, torch.device("cpu"))
    assert look.channels == 1
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, found["average"][f"module.{name}"]), name
