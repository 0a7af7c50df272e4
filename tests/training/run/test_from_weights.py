"""A run that starts from trained weights begins with the encoder that they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.cli import app
from jepack.encoder import load_encoder, serving_graph
from jepack.sources import Source
from training.parallel import Ranks
from training.run import prepare
from training.settings import TrainConfig, recipe
from training.train import train
from training.watch import read_log

ALONE = Ranks(0, 1, torch.device("cpu"))


def continued(**changes: Any) -> TrainConfig:
    """Two steps that move no weight; a ViT has no running figures that move by themselves."""
    return replace(
        recipe("quickstart"), size=32, eval_size=32, global_views=2, slices=16, images_per_step=16,
        epochs=0.5, minutes=None, projector_hidden=32, projection_dims=8, workers=1, precision="fp32",
        learning_rate=1e-12, evaluate_epochs=100, **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Bundle:
    """What `jepack import` makes of a timm encoder: three channels, timm's mean, std and crop."""
    place = tmp_path_factory.mktemp("start")
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=32, num_classes=0)
    save_file(model.state_dict(), place / "w.safetensors")
    words = (
        "import", place / "w.safetensors", "--encoder", "test_vit", "--data", digits_folder,
        "--out", place / "bundle", "--size", 32,
    )  # fmt: skip
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0
    return bundles.load(place / "bundle")


def go(config: TrainConfig, data: Path, out: Path, **options: Any) -> Bundle | None:
    return train(config, data, out, device="cpu", cache_root=out / "cache", **options)


def test_colour_that_a_start_of_one_channel_does_not_see_is_told(
    tmp_path: Path, digits_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", in_chans=1, num_classes=0)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    words = (
        "import", tmp_path / "w.safetensors", "--encoder", "test_resnet", "--data", digits_folder,
        "--out", tmp_path / "grey", "--size", 32, "--channels", 1,
    )  # fmt: skip
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0
    generator = np.random.default_rng(0)
    (tmp_path / "colour").mkdir()
    for number in range(40):
        pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "colour" / f"{number}.png")
    for folder, told in ((digits_folder, False), (tmp_path / "colour", True)):
        capsys.readouterr()
        prepare(
            continued(init=str(tmp_path / "grey")), Source.of(folder), ALONE, cache_root=tmp_path
        )
        assert ("turned grey" in capsys.readouterr().err) is told


def test_an_encoder_that_a_run_starts_from_is_fed_as_it_was(
    start: Bundle, digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Grey images, a start of three channels: what it says of a crop is what the user knows."""
    made = go(continued(init=str(start.folder)), digits_folder, tmp_path / "run")
    assert made is not None
    assert made.preprocessing == start.preprocessing
    pixels = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        before, after = serving_graph(start)(pixels)[0], serving_graph(made)(pixels)[0]
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    told = " ".join(capsys.readouterr().err.split())
    assert "one linear layer" in told
    assert "new_projector=true" in told
    assert " start last " in told
    first, *_, last = read_log(tmp_path / "run")[1]
    assert (first["step"], last["step"]) == (0, 2)
    assert first["evaluation"]["knn"] == last["evaluation"]["knn"]


def test_a_new_projector_takes_the_shape_that_is_asked_and_the_backbone_stays(
    start: Bundle, digits_folder: Path, tmp_path: Path
) -> None:
    config = continued(init=str(start.folder), new_projector=True)
    made = go(config, digits_folder, tmp_path / "run")
    assert made is not None
    projector = load_encoder(made)[0].projector.config
    assert (projector.layers, projector.hidden, projector.out_features) == (3, 32, 8)
    pixels = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        before, after = serving_graph(start)(pixels)[0], serving_graph(made)(pixels)[0]
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_a_run_that_began_with_measured_figures_goes_on_with_them(
    start: Bundle, digits_folder: Path, tmp_path: Path
) -> None:
    config = continued(init=str(start.folder))
    assert go(config, digits_folder, tmp_path / "run", stop_after=1) is None
    kept = tmp_path / "run" / "preprocessing.json"
    settled = json.loads(kept.read_text())
    assert settled == start.preprocessing.to_json()
    measured = {**settled, "mean": [0.31] * 3, "std": [0.36] * 3, "crop_pct": 1.0}
    kept.write_text(json.dumps(measured))
    made = go(config, digits_folder, tmp_path / "run")
    assert made is not None
    assert made.preprocessing.to_json() == measured


def test_published_weights_are_fed_as_timm_says(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one channel by the mean of the three, as timm sums the weights of the first layer."""
    monkeypatch.setattr("training.run.preparing.fetch_weights", lambda config: None)
    config = continued(encoder="resnet10t", pretrained=True)
    source = Source.of(digits_folder)
    prepared = prepare(config, source, ALONE, cache_root=tmp_path)
    stated: Any = timm.get_pretrained_cfg("resnet10t")
    assert prepared.preprocessing.mean == pytest.approx([sum(stated.mean) / 3])
    assert prepared.preprocessing.std == pytest.approx([sum(stated.std) / 3])
    assert prepared.preprocessing.crop_pct == stated.crop_pct
    scratch = prepare(replace(config, pretrained=False), source, ALONE, cache_root=tmp_path)
    assert scratch.preprocessing.mean != prepared.preprocessing.mean
