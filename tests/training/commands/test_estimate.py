"""What --dry-run says of a run, against the run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from jepack.cli import app
from training.commands.dry_run import estimate
from training.commands.saved_bytes import SavedBytes
from training.run import memory
from training.settings import TrainConfig, quickstart

SMALL = replace(
    quickstart(), encoder="test_vit", size=32, eval_size=32, global_views=2, images_per_step=16, epochs=3,
    minutes=None, projector_hidden=32, projection_dims=16, slices=16, channels=1, workers=1,
    precision="fp32",
)  # fmt: skip


def test_what_autograd_keeps_is_counted_once_and_let_go() -> None:
    """x -> Linear -> ReLU -> Linear keeps x and one hidden tensor; ReLU's output is the second's input."""
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    x = torch.randn(10, 8)
    counted = SavedBytes(net)
    with counted.hooks:
        result = net(x).sum()
    assert counted.now == 4 * (10 * 8 + 10 * 32)
    result.backward()
    del result
    assert counted.now == 0
    assert counted.peak == 4 * (10 * 8 + 10 * 32)


def test_the_memory_of_a_run_is_told(digits_folder: Path, tmp_path: Path) -> None:
    found = estimate(SMALL, digits_folder, device="cpu", cache_root=tmp_path)
    assert found is not None
    assert found.memory["weights"] == found.memory["gradients"] == 4 * found.parameters
    assert found.memory["optimizer"] == pytest.approx(8 * found.parameters, rel=0.01)
    assert found.memory["views"] == 2 * 16 * 32 * 32 * 4
    assert found.fits
    assert found.most_images_per_step > 16
    assert found.steps == round(3 * found.images / 16)


@pytest.mark.parametrize("change", [{"accumulate": 4}, {"activation_checkpointing": True}])
def test_pieces_and_checkpointing_keep_fewer_activations(
    digits_folder: Path, tmp_path: Path, change: dict[str, int]
) -> None:
    def kept(config: TrainConfig) -> int:
        found = estimate(config, digits_folder, device="cpu", cache_root=tmp_path)
        assert found is not None
        return found.memory["activations"]

    assert kept(replace(SMALL, **change)) < 0.6 * kept(SMALL)  # type: ignore[arg-type]


def test_a_dry_run_leaves_no_run(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JEPACK_CACHE", str(tmp_path / "cache"))
    words = [
        "--recipe",
        "quickstart",
        "--encoder",
        "test_resnet",
        "--size",
        "32",
        "--device",
        "cpu",
    ]
    words += ["--images-per-step", "16", "--set", "slices=16", "--dry-run"]
    out = ["--out", str(tmp_path / "run")]
    shown = CliRunner().invoke(app, ["train", str(digits_folder), *out, *words])
    assert shown.exit_code == 0, shown.output
    assert "images/s" in shown.output
    told = CliRunner().invoke(app, ["train", str(digits_folder), *out, *words, "--json"])
    assert json.loads(told.stdout.splitlines()[-1])["fits"] is True
    assert not (tmp_path / "run").exists()


def test_free_memory_is_what_the_system_tells_and_a_container_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "PROC", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.available_memory() > 1 << 20  # no such file: all the memory there is
    (tmp_path / "meminfo").write_text("MemTotal:  8000 kB\nMemAvailable:  5000 kB\n")
    assert memory.available_memory() == 5000 * 1024
    (tmp_path / "memory.max").write_text("max")
    (tmp_path / "memory.current").write_text("3000000")
    (tmp_path / "memory.stat").write_text("anon 2000000\ninactive_file 600000\n")
    assert memory.available_memory() == 5000 * 1024
    (tmp_path / "memory.max").write_text("4000000")
    assert memory.available_memory() == 4_000_000 - 3_000_000 + 600_000
