"""What a run starts from, and that its bundle says so."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jepack import bundle as bundles
from jepack.encoder import load_encoder
from jepack.errors import ArtifactError, ConfigError
from training.commands.probe import open_encoder
from training.settings import TrainConfig, quickstart
from training.train import train

SHORT = replace(
    quickstart(), size=32, eval_size=48, global_views=2, images_per_step=16, epochs=1, minutes=None,
    projector_hidden=32, projection_dims=16, slices=16, channels=1, workers=1, evaluate_epochs=100,
)  # fmt: skip


def run(config: TrainConfig, data: Path, out: Path) -> bundles.Bundle:
    made = train(config, data, out, device="cpu", cache_root=out / "cache")
    assert made is not None
    return made


def test_an_encoder_of_one_size_is_served_at_that_size(digits_folder: Path, tmp_path: Path) -> None:
    made = run(replace(SHORT, encoder="test_vit"), digits_folder, tmp_path / "vit")
    assert made.preprocessing.size == 32
    assert made.config()["model_args"]["img_size"] == 32
    encoder, _ = load_encoder(made)
    assert encoder.backbone(torch.zeros(1, 1, 32, 32)).shape == (1, made.dimensions["embedding"])


def test_a_run_started_from_a_bundle_keeps_its_architecture(
    digits_folder: Path, tmp_path: Path
) -> None:
    first = run(replace(SHORT, encoder="test_resnet"), digits_folder, tmp_path / "first")
    assert first.preprocessing.size == 48
    second = run(replace(SHORT, init=str(first.folder)), digits_folder, tmp_path / "second")
    assert second.config()["architecture"] == "test_resnet"
    assert second.manifest["provenance"]["recipe"]["encoder"] == "test_resnet"
    assert second.dimensions == first.dimensions


def test_a_bundle_of_other_channels_is_no_start(digits_folder: Path, tmp_path: Path) -> None:
    first = run(replace(SHORT, encoder="test_resnet"), digits_folder, tmp_path / "first")
    with pytest.raises(ConfigError, match="1 channel"):
        run(replace(SHORT, init=str(first.folder), channels=3), digits_folder, tmp_path / "second")


def test_the_device_names_the_precision(digits_folder: Path, tmp_path: Path) -> None:
    """bfloat16 only where the processor has instructions for it; the run says which it was."""
    run(replace(SHORT, encoder="test_resnet", epochs=0.1), digits_folder, tmp_path)
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    native = any(flag in flags for flag in ("avx512_bf16", "amx_bf16", " bf16"))
    settled = json.loads((tmp_path / "config.json").read_text())["precision"]
    assert settled == ("bf16" if native else "fp32")


def test_a_checkpoint_opens_as_the_encoder_of_its_bundle(
    digits_folder: Path, tmp_path: Path
) -> None:
    """`jepack probe` takes any checkpoint of a run; the last one is what the bundle was made from."""
    made = run(replace(SHORT, encoder="test_resnet"), digits_folder, tmp_path)
    [folder] = (tmp_path / "checkpoints").iterdir()
    encoder, look = open_encoder(str(folder), 3, 224)
    assert look == made.preprocessing
    pixels = torch.rand(4, 1, 48, 48)
    torch.testing.assert_close(encoder.backbone(pixels), load_encoder(made)[0].backbone(pixels))


def test_a_checkpoint_away_from_its_run_says_what_it_needs(
    digits_folder: Path, tmp_path: Path
) -> None:
    run(replace(SHORT, encoder="test_resnet"), digits_folder, tmp_path / "run")
    [folder] = (tmp_path / "run" / "checkpoints").iterdir()
    (tmp_path / "a" / "b").mkdir(parents=True)
    moved = shutil.move(folder, tmp_path / "a" / "b" / "moved")
    with pytest.raises(ArtifactError, match=r"preprocessing\.json two levels up"):
        open_encoder(str(moved), 3, 224)
