"""A disk that fills while training: a clear error, the last good checkpoint kept, the run continued."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jepack.errors import ArtifactError
from training.run import checkpoint
from training.settings import TrainConfig, recipe
from training.train import train
from training.watch import read_log

CPU = torch.device("cpu")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 24 MB; `grow` makes it larger."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "jepack-test", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if mounted.returncode:
        pytest.skip(f"needs the right to mount: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def grow(disk: Path) -> None:
    command = ["mount", "-o", "remount,size=400m", str(disk)]
    subprocess.run(command, check=True, capture_output=True)


def tiny() -> TrainConfig:
    return replace(
        recipe("quickstart"), encoder="test_vit", size=32, eval_size=32, global_views=2, slices=32,
        images_per_step=16, epochs=4, minutes=None, projector_hidden=32, projection_dims=8, workers=1,
        precision="fp32", channels=1, checkpoint_minutes=0.0, keep_checkpoints=100,
        evaluate_epochs=100.0,
    )  # fmt: skip


def test_a_full_disk_stops_the_run_and_costs_no_checkpoint(
    digits_folder: Path, small_disk: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"device": "cpu", "cache_root": tmp_path / "cache"}
    run = small_disk / "run"
    with pytest.raises(ArtifactError, match="no space left on the disk") as told:
        train(tiny(), digits_folder, run, **options)
    kept = sorted((run / "checkpoints").glob("step-*"))
    assert 0 < len(kept) < 12
    assert f"The last checkpoint is {kept[-1]}" in str(told.value)
    assert not list((run / "checkpoints").glob(".step-*"))  # what was half written is gone
    state = checkpoint.load_newest(run, CPU, pytest.fail)
    assert state is not None
    assert state["step"] == len(kept)
    grow(small_disk)
    train(tiny(), digits_folder, run, **options)
    calm = tmp_path / "calm"
    train(tiny(), digits_folder, calm, **options)
    assert read_log(run)[0][-1]["loss"] == read_log(calm)[0][-1]["loss"]
    after, wanted = (checkpoint.load_newest(place, CPU, pytest.fail) for place in (run, calm))
    assert after is not None
    assert wanted is not None
    same = (torch.equal(v, wanted["method"][name]) for name, v in after["method"].items())
    assert all(same)


def test_what_a_kill_left_of_a_checkpoint_goes_with_the_next(tmp_path: Path) -> None:
    left = tmp_path / "checkpoints" / ".step-00000007.abc.tmp"
    left.mkdir(parents=True)
    (left / "state.pt").write_bytes(b"half")
    checkpoint.save(tmp_path, 8, {"w": torch.ones(3)}, keep=3)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000008"]
