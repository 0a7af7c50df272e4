"""What is named as a start and is none, and settings that name two: a sentence that says what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from jepack.errors import ArtifactError, ConfigError
from jepack.sources import Source
from training.commands.sweeping import base_of
from training.commands.train import train
from training.commands.weights import open_source
from training.parallel import Ranks
from training.run import prepare, settle
from training.run.gentle import freeze_stages
from training.settings import recipe

ALONE = Ranks(0, 1, torch.device("cpu"))


def test_a_run_named_as_its_bundle(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").write_text("{}")
    with pytest.raises(ArtifactError, match=f"is a run; its bundle is --init {tmp_path}/bundle"):
        settle(replace(recipe("adapt"), init=str(tmp_path)), ALONE)


def test_weights_named_as_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"")
    for name in (str(tmp_path / "w.safetensors"), "timm:resnet18"):
        with pytest.raises(ArtifactError, match=f"jepack import {name}"):
            settle(replace(recipe("adapt"), init=name), ALONE)


def test_two_starts_are_one_too_many() -> None:
    with pytest.raises(ConfigError, match="init and pretrained"):
        replace(recipe("adapt"), init="bundle", pretrained=True)
    with pytest.raises(ConfigError, match="leave --encoder out"):
        train(data="photos", recipe_name="adapt", init="bundle", encoder="resnet18")


def test_a_sweep_of_adapt_needs_a_start_too() -> None:
    with pytest.raises(ConfigError, match="--init BUNDLE"):
        base_of("adapt", [], 1.0, ["backbone_rate=0.1,0.5"])


def test_weights_that_cannot_be_had_are_told_before_images_are_decoded(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **options: object) -> torch.nn.Module:
        if options.get("pretrained"):
            raise OSError("no network")
        return built(*_, **options)

    built = timm.create_model
    monkeypatch.setattr(timm, "create_model", away)
    config = replace(recipe("adapt"), encoder="test_resnet", pretrained=True, size=32)
    with pytest.raises(ArtifactError, match="could not be had .no network.*jepack import"):
        prepare(config, Source.of(digits_folder), ALONE, cache_root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_last_stage_learns_always() -> None:
    network = timm.create_model("test_resnet", num_classes=0)
    freeze_stages(network, 0.99)
    learns = {name for name, value in network.named_parameters() if value.requires_grad}
    assert learns == {name for name, _ in network.named_parameters() if name.startswith("layer4")}


def test_a_file_of_ones_own_has_no_licence_of_timms(tmp_path: Path) -> None:
    network = timm.create_model("test_resnet", num_classes=0)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    weights = open_source(str(tmp_path / "w.safetensors"), "test_resnet", 3, 32)
    assert not weights.stated.get("license")
