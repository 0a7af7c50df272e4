"""Ranks, resuming and stopping, through the command a user types."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import processes
import pytest
import torch

from jepack import bundle as bundles
from jepack.errors import ConfigError
from training.run import checkpoint, load_newest
from training.settings import override, recipe
from training.train import train as run_training

CPU = torch.device("cpu")
TINY = [
    "--recipe", "quickstart", "--encoder", "test_vit", "--device", "cpu", "--size", "32",
    "--images-per-step", "16", "--epochs", "6",
    *(
        word
        for setting in (
            "eval_size=32", "global_views=2", "projector_hidden=32", "projection_dims=16",
            "slices=32", "minutes=null", "evaluate_epochs=100", "channels=1", "workers=1",
        )
        for word in ("--set", setting)
    ),
]  # fmt: skip


def environment(tmp_path: Path) -> dict[str, str]:
    return {"JEPACK_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}


def train(data: Path, out: Path, tmp_path: Path, *words: str, ranks: int = 1) -> None:
    command = ["train", data, "--out", out, *TINY, *words]
    if ranks > 1:
        processes.run_ranks(command, ranks, tmp_path / out.name, environment(tmp_path))
    else:
        done = processes.run(*command, environment=environment(tmp_path))
        assert done.returncode == 0, done.stderr[-3000:]


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def weights(run: Path) -> dict[str, torch.Tensor]:
    state = load_newest(run, CPU, print)
    assert state is not None
    return {**state["method"], **{f"ema.{k}": v for k, v in state["average"].items()}}


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[key].double() - b[key].double()).abs().max()) for key in a)


@pytest.mark.parametrize(("encoder", "ranks"), [("test_vit", 2), ("test_resnet", 4)])
def test_ranks_give_the_losses_and_weights_of_one_process(
    digits_folder: Path, tmp_path: Path, encoder: str, ranks: int
) -> None:
    """In float64, where rounding stays far below a fault over 18 steps."""
    # A gradient that is 0 in exact arithmetic (attention key biases) is rounding noise, which Adam
    # scales up to the learning rate; a small one keeps it below the tolerance.
    words = ["--precision", "fp64", "--encoder", encoder, "--learning-rate", "2e-4"]
    train(digits_folder, tmp_path / "1", tmp_path, *words)
    assert len(losses(tmp_path / "1")) == 18
    run = tmp_path / "together"
    train(digits_folder, run, tmp_path, *words, ranks=ranks)
    assert losses(run) == pytest.approx(losses(tmp_path / "1"), abs=1e-12)
    assert largest_difference(weights(run), weights(tmp_path / "1")) <= 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["test_vit", "test_resnet"])
def test_ranks_round_a_step_in_float32_no_more_than_one_process_does(
    digits_folder: Path, tmp_path: Path, encoder: str
) -> None:
    """One step, since rounding grows along a run, and differently on every processor.

    The bound is derived from the float64 step, here the exact one. One process's gradient is off by
    e = |g32 - g64| / |g64|, thousands of independent roundings in one norm (2e-6 ViT, 1e-5 ResNet). Ranks
    add the same numbers up in another order, which gives other roundings of the same size: they may be
    off by 4 e. With BatchNorm over each rank's own images they are off by 0.9. The loss and its parts
    are averages of what the gradient goes through twice, so e bounds them as well.
    """
    words = ["--encoder", encoder, "--epochs", "0.34"]
    train(digits_folder, tmp_path / "exact", tmp_path, *words, "--precision", "fp64")
    exact, exact_figures = first_gradient(tmp_path / "exact"), first_figures(tmp_path / "exact")

    def error(run: Path) -> tuple[float, float]:
        """Relative, of the gradient as one vector, and the largest of the loss and its parts."""
        figures = first_figures(run)
        parts = [abs(figures[name] / value - 1) for name, value in exact_figures.items()]
        return float((first_gradient(run) - exact).norm() / exact.norm()), max(parts)

    words += ["--precision", "fp32"]
    train(digits_folder, tmp_path / "1", tmp_path, *words)
    rounding, _ = error(tmp_path / "1")
    assert 0 < rounding < 1e-4  # else the bound below would let faults through
    for ranks in (2, 4):
        train(digits_folder, tmp_path / str(ranks), tmp_path, *words, ranks=ranks)
        assert max(error(tmp_path / str(ranks))) <= 4 * rounding


def first_gradient(run: Path) -> torch.Tensor:
    """All of it as one vector, out of Adam's first moment after one step, (1 - 0.9) g."""
    state = load_newest(run, CPU, print)
    assert state is not None
    assert state["step"] == 1
    moments = [one["exp_avg"] for one in state["optimizer"]["state"].values()]
    return torch.cat([moment.double().flatten() for moment in moments]) / 0.1


def first_figures(run: Path) -> dict[str, float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    line = next(line for line in lines if "loss" in line)
    return {name: line[name] for name in ("loss", "prediction", "regulariser", "gradient_norm")}


def dying(last: int, saved: bool) -> None:
    """A run kills itself at step `last`, so that no polling can come too late; `saved` says whether its
    checkpoint is there by then."""
    save = checkpoint.save

    def save_and_die(run: Path, step: int, *rest: Any, **options: Any) -> Any:
        if step == last and not saved:
            os.kill(os.getpid(), signal.SIGKILL)
        place = save(run, step, *rest, **options)
        if step == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return place

    checkpoint.save = save_and_die


def test_killed_runs_resume_to_the_same_bits(digits_folder: Path, tmp_path: Path) -> None:
    """kill -9 three times, then let it end: losses and weights equal an undisturbed run's."""
    often = ["--precision", "fp32", "--set", "checkpoint_minutes=0"]
    train(digits_folder, tmp_path / "calm", tmp_path, *often)
    stormy = tmp_path / "stormy"
    command = ["train", digits_folder, "--out", stormy, *TINY, *often]
    for step, saved, newest in ((3, True, 3), (8, False, 7), (13, True, 13)):
        before = (dying, step, saved)
        died = processes.start(command, tmp_path / "log", environment(tmp_path), before)
        assert died.ended() == -signal.SIGKILL, died.errors[-3000:]
        assert newest_step(stormy) == newest
    train(digits_folder, stormy, tmp_path, *often)
    assert losses(stormy) == losses(tmp_path / "calm")
    assert largest_difference(weights(stormy), weights(tmp_path / "calm")) == 0


def newest_step(run: Path) -> int:
    found = sorted((run / "checkpoints").glob("step-*"))
    return int(found[-1].name[5:]) if found else 0


def test_sigterm_to_one_rank_saves_and_ends_all(digits_folder: Path, tmp_path: Path) -> None:
    """Told by that rank, not by torchrun, which nobody waits for here."""
    run = tmp_path / "run"
    words = ["train", digits_folder, "--out", run, *TINY, "--epochs", "5000"]
    words += ["--set", "checkpoint_minutes=0"]
    ranks, _store = processes.start_ranks(words, 2, tmp_path / "log", environment(tmp_path))
    while newest_step(run) < 3:
        assert all(rank.process.is_alive() for rank in ranks), ranks[0].errors[-3000:]
        time.sleep(0.05)
    ranks[1].process.terminate()
    assert [rank.ended() for rank in ranks] == [130, 130]
    steps = len(losses(run))
    assert 3 <= newest_step(run) <= steps
    assert steps - newest_step(run) <= 1


def damage_truncate(folder: Path) -> None:
    content = (folder / "state.pt").read_bytes()
    (folder / "state.pt").write_bytes(content[:-100])


def damage_flip(folder: Path) -> None:
    content = bytearray((folder / "state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "state.pt").write_bytes(bytes(content))


def damage_drop(folder: Path) -> None:
    (folder / "checkpoint.json").unlink()


@pytest.mark.parametrize("damage", [damage_truncate, damage_flip, damage_drop])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"step": step, "w": torch.ones(1000)}, keep=3)
    damage(checkpoint.folder_of(tmp_path, 2))
    said: list[str] = []
    state = load_newest(tmp_path, CPU, said.append)
    assert state is not None
    assert state["step"] == 1
    assert "step-00000002" in said[0]
    assert "Falling back" in said[0]


def test_sharded_weights_give_the_losses_and_weights_of_one_process(
    digits_folder: Path, tmp_path: Path
) -> None:
    """FSDP2 on 2 ranks, its last two checkpoints lost and the run continued, against one process."""
    words = ["--precision", "fp64", "--learning-rate", "2e-4", "--epochs", "5"]
    words += ["--set", "accumulate=2"]
    train(digits_folder, tmp_path / "one", tmp_path, *words)
    words += ["--set", "sharding=fsdp", "--set", "checkpoint_minutes=0"]
    train(digits_folder, tmp_path / "two", tmp_path, *words, ranks=2)
    for folder in sorted((tmp_path / "two" / "checkpoints").glob("step-*"))[-2:]:
        shutil.rmtree(folder)
    train(digits_folder, tmp_path / "two", tmp_path, *words, ranks=2)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-11)
    assert largest_difference(weights(tmp_path / "two"), weights(tmp_path / "one")) <= 1e-10
    assert bundles.verify(tmp_path / "two" / "bundle") == []


def test_sharding_needs_several_ranks(digits_folder: Path, tmp_path: Path) -> None:
    config = override(recipe("quickstart"), ["sharding=fsdp", "images_per_step=16"])
    with pytest.raises(ConfigError, match="torchrun"):
        run_training(config, digits_folder, tmp_path, device="cpu", cache_root=tmp_path / "cache")
