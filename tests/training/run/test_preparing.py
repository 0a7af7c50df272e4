"""What a run is made of before its first step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from jepack.errors import DataError
from jepack.sources import Source
from jepack.sources import find as listing
from training.parallel import Ranks
from training.run import Prepared, checkpoint, prepare
from training.settings import TrainConfig, recipe
from training.train import train

ALONE = Ranks(0, 1, torch.device("cpu"))


def tiny() -> TrainConfig:
    return replace(
        recipe("quickstart"), encoder="test_vit", size=32, eval_size=32, global_views=2, slices=16,
        images_per_step=16, epochs=1, minutes=None, projector_hidden=32, projection_dims=8, workers=1,
        precision="fp32", evaluate_epochs=100,
    )  # fmt: skip


def prepared_of(data: Path, root: Path, config: TrainConfig) -> Prepared:
    return prepare(config, Source.of(data), ALONE, cache_root=root)


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were walked."""
    found: list[Path] = []
    walk = listing.Walk

    def counted(folder: Path, *rest: object) -> object:
        found.append(folder)
        return walk(folder, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(listing, "Walk", counted)
    return found


@pytest.mark.parametrize("stream", [False, True])
def test_a_folder_is_walked_once(
    digits_folder: Path, tmp_path: Path, walks: list[Path], stream: bool
) -> None:
    prepared = prepared_of(digits_folder, tmp_path, replace(tiny(), stream=stream))
    assert walks == [digits_folder]
    assert len(prepared.listed) == len(prepared.images) == 60
    again = prepare(
        tiny(), prepared.source, ALONE, cache_root=tmp_path, listed=prepared.listed, encodes=False
    )
    assert walks == [digits_folder]
    assert np.array_equal(again.split.train, prepared.split.train)


def test_what_is_prepared_is_what_a_run_records(digits_folder: Path, tmp_path: Path) -> None:
    prepared = prepared_of(digits_folder, tmp_path / "cache", tiny())
    stop = {"device": "cpu", "cache_root": tmp_path / "cache", "stop_after": 1}
    assert train(tiny(), digits_folder, tmp_path / "run", **stop) is None  # type: ignore[arg-type]
    about = checkpoint.about_newest(tmp_path / "run")
    assert about is not None
    assert about["run"] == json.loads(json.dumps(prepared.record("not stated")))
    assert about["total"] == prepared.steps == prepared.start().state.total


def test_the_same_images_under_other_settings_are_split_by_those(
    digits_folder: Path, tmp_path: Path
) -> None:
    prepared = prepared_of(digits_folder, tmp_path, tiny())
    other = prepared.under(replace(tiny(), seed=1, slices=32), ALONE)
    assert other.images is prepared.images
    assert (other.config.channels, other.config.slices) == (1, 32)
    assert not np.array_equal(other.split.held_out, prepared.split.held_out)


def test_too_few_images_are_told_before_one_is_decoded(digits_folder: Path, tmp_path: Path) -> None:
    config = replace(tiny(), validation_fraction=0.05)
    with pytest.raises(DataError, match="held out"):
        prepared_of(digits_folder, tmp_path / "cache", config)
    assert not (tmp_path / "cache").exists()
