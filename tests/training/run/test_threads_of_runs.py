"""The number of threads of a run's steps: chosen, asked for, or repeated after a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jepack.machine import threads
from training.settings import quickstart
from training.train import train

SHORT = replace(
    quickstart(), encoder="test_vit", size=32, eval_size=32, global_views=2, images_per_step=16, epochs=2,
    minutes=None, projector_hidden=32, projection_dims=16, slices=16, channels=1, workers=1,
    evaluate_epochs=100,
)  # fmt: skip


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch has two, whatever the machine, and nobody asked for a number."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "cores", lambda: 2)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def threads_in(run: Path) -> list[int]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["threads"] for line in lines if "loss" in line]


def test_steps_lost_in_a_kill_are_repeated_with_the_threads_they_had(
    digits_folder: Path, tmp_path: Path
) -> None:
    """Sums of other threads round otherwise: the same bits need the same number."""
    out = tmp_path / "run"
    train(SHORT, digits_folder, out, device="cpu", cache_root=tmp_path, stop_after=2)
    with (out / "log.jsonl").open("a") as log:  # steps after the last checkpoint, then the kill
        for step in (2, 3, 4):
            log.write(json.dumps({"step": step, "loss": 0.0, "threads": 1}) + "\n")
        log.write('{"step": 5, "lo')
    train(SHORT, digits_folder, out, device="cpu", cache_root=tmp_path)
    assert threads_in(out) == [2, 2, 1, 1, 1, 2]
    assert torch.get_num_threads() == 2


def test_a_run_keeps_the_number_that_was_asked_for(digits_folder: Path, tmp_path: Path) -> None:
    config = replace(SHORT, threads=3, epochs=1)
    train(config, digits_folder, tmp_path / "run", device="cpu", cache_root=tmp_path)
    assert threads_in(tmp_path / "run") == [3, 3, 3]
    assert torch.get_num_threads() == 2
