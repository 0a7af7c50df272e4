"""What only a GPU can show: `pytest -m gpu`. One is enough; two ranks share it over gloo."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jepack import bundle as bundles
from training.data import open_cache
from training.parallel import Ranks, choose_device
from training.run import Entry, Unread, judge, load_newest, starting, take_step
from training.settings import TrainConfig, recipe
from training.train import train
from training.views import Cutter, Finisher, preset

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode"),  # a prototype feature, it says
    pytest.mark.filterwarnings(
        "ignore:Attempting to run cuBLAS"
    ),  # in a thread's first backward pass
]
SETTINGS = (
    "eval_size=32", "global_views=2", "projector_hidden=32", "projection_dims=16", "slices=32",
    "minutes=null", "evaluate_epochs=100", "channels=1", "workers=1",
)  # fmt: skip
TINY = ["--recipe", "quickstart", "--size", "32", "--images-per-step", "16", "--preset", "none"]
TINY += [word for setting in SETTINGS for word in ("--set", setting)]


def tiny(**changes: Any) -> TrainConfig:
    config = replace(
        recipe("quickstart"), encoder="test_resnet", size=32, eval_size=32, global_views=2, slices=32,
        images_per_step=16, epochs=5, minutes=None, projector_hidden=32, projection_dims=8, workers=1,
        channels=1, evaluate_epochs=2,
    )  # fmt: skip
    return replace(config, **changes)


def command(data: Path, out: Path, *words: str) -> list[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    start += ["-m", "jepack", "train"]
    return [*start, str(data), "--out", str(out), *TINY, *words, "--device", "cuda:0"]


def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "JEPACK_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}


def run(data: Path, out: Path, tmp_path: Path, *words: str) -> list[float]:
    """The losses of a run of two ranks."""
    done = subprocess.run(
        command(data, out, *words), env=environment(tmp_path), capture_output=True,
        text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return losses(out)


def alone(data: Path, tmp_path: Path, **changes: Any) -> list[float]:
    """The losses of the same run in one process, this one."""
    config = tiny(
        precision="fp64", learning_rate=2e-4, preset="none", projection_dims=16, evaluate_epochs=100,
        **changes,
    )  # fmt: skip
    train(config, data, tmp_path / "calm", device="cuda:0", cache_root=tmp_path / "cache")
    return losses(tmp_path / "calm")


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def newest_step(out: Path) -> int:
    found = sorted((out / "checkpoints").glob("step-*"))
    return int(found[-1].name[5:]) if found else 0


@pytest.mark.parametrize("device", ["cuda", None])
def test_a_run_on_the_gpu_ends_in_a_sound_bundle(
    digits_folder: Path, tmp_path: Path, device: str | None
) -> None:
    done = train(tiny(), digits_folder, tmp_path / "run", device=device, cache_root=tmp_path / "c")
    assert done is not None
    assert bundles.verify(done.folder) == []
    assert len(losses(tmp_path / "run")) == 15


def test_a_checkpoint_of_the_gpu_goes_on_on_a_cpu_and_back(
    digits_folder: Path, tmp_path: Path
) -> None:
    out, options = tmp_path / "run", {"cache_root": tmp_path / "cache"}
    config = tiny(precision="fp32")
    train(config, digits_folder, out, device="cuda", stop_after=4, **options)
    train(config, digits_folder, out, device="cpu", stop_after=8, **options)
    assert train(config, digits_folder, out, device="cuda", **options) is not None
    assert np.isfinite(losses(out)).all()
    assert len(losses(out)) == 15


@pytest.mark.parametrize("encoder", ["test_vit", "test_resnet", "test_efficientnet"])
def test_two_ranks_on_one_gpu_give_the_losses_of_one_process(
    digits_folder: Path, tmp_path: Path, encoder: str
) -> None:
    words = [
        "--precision",
        "fp64",
        "--encoder",
        encoder,
        "--learning-rate",
        "2e-4",
        "--epochs",
        "5",
    ]
    one = alone(digits_folder, tmp_path, encoder=encoder, epochs=5)
    two = run(digits_folder, tmp_path / "2", tmp_path, *words)
    assert len(one) == 15
    assert two == pytest.approx(one, abs=1e-9)


def test_sigterm_to_one_of_two_ranks_saves_and_the_same_command_ends_the_run(
    digits_folder: Path, tmp_path: Path
) -> None:
    words = ["--precision", "fp64", "--encoder", "test_vit", "--learning-rate", "2e-4"]
    words += ["--epochs", "60", "--set", "checkpoint_minutes=0"]
    psutil = pytest.importorskip("psutil")
    calm = alone(digits_folder, tmp_path, encoder="test_vit", epochs=60)
    out = tmp_path / "run"
    child = subprocess.Popen(
        command(digits_folder, out, *words), env=environment(tmp_path),
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while newest_step(out) < 3:
        assert child.poll() is None
        time.sleep(0.02)
    workers = [p for p in psutil.Process(child.pid).children() if "training" in p.cmdline()]
    assert len(workers) == 2
    workers[1].send_signal(signal.SIGTERM)
    child.communicate(timeout=60)
    steps = newest_step(out)
    assert len(losses(out)) - steps <= 1
    assert run(digits_folder, out, tmp_path, *words) == pytest.approx(calm, abs=1e-9)
    assert (out / "bundle").is_dir()


def prepared(
    data: Path, tmp_path: Path, config: TrainConfig
) -> tuple[starting.Session, Ranks, Cutter, Finisher]:
    here = Ranks(0, 1, choose_device("cuda"))
    torch.manual_seed(0)
    session = starting.build_session(config, here)
    session.state.total = 100
    cache = open_cache(data, side=40, channels=config.channels, root=tmp_path / "cache")
    look = preset(config.preset, config.view_overrides)
    cutter = Cutter(cache, np.arange(len(cache)), config, look, on_device=True)
    channels = config.channels
    return (
        session,
        here,
        cutter,
        Finisher(config, look, (0.5,) * channels, (0.5,) * channels, here.device),
    )


IJEPA = replace(
    recipe("ijepa"), encoder="test_vit", size=160, eval_size=160, images_per_step=8, channels=3,
    predictor_width=32, predictor_depth=1, workers=1,
)  # fmt: skip


@pytest.mark.parametrize(
    "config",
    [
        tiny(),
        tiny(preset="natural", channels=3, local_views=2, local_size=16, gradient_clip=1.0),
        tiny(preset="histology", channels=3),
        tiny(preset="satellite", channels=3),
        tiny(encoder="test_vit", accumulate=2),
        tiny(regulariser="visreg"),
        IJEPA,
    ],
    ids=["plain", "colour", "stains", "turned", "micro-batches", "visreg", "ijepa"],
)
def test_a_step_never_waits_for_the_gpu(
    digits_folder: Path, tmp_path: Path, config: TrainConfig
) -> None:
    session, here, cutter, finisher = prepared(digits_folder, tmp_path, config)
    for step in range(4):
        batch = cutter.cut(step)
        # Constants are uploaded once.
        torch.cuda.set_sync_debug_mode("error" if step > 1 else "default")
        try:
            take_step(config, session, finisher.finish(batch), here)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_a_gradient_that_is_not_finite_changes_nothing_on_the_gpu(
    digits_folder: Path, tmp_path: Path
) -> None:
    config = tiny(precision="fp32")
    session, here, cutter, finisher = prepared(digits_folder, tmp_path, config)
    unread, bad = Unread(), []
    for step in range(4):
        views = finisher.finish(cutter.cut(step))
        if step == 2:
            views = replace(views, global_views=views.global_views * float("nan"))
            before = whole_state(session.state)
        reading = take_step(config, session, views, here)
        if step == 2:
            after = whole_state(session.state)
        for entry in unread.put(Entry(reading, 1.0, 0.0, views.took)):
            figures = judge(session, entry.reading)
            bad.append(not np.isfinite(figures["loss"]))
    for entry in unread.rest():
        bad.append(not np.isfinite(judge(session, entry.reading)["loss"]))
    assert bad == [False, False, True, False]
    assert all(torch.equal(before[name], after[name]) for name in before)


def whole_state(state: starting.State) -> dict[str, torch.Tensor]:
    found = dict(state.method.trained.state_dict())
    moments = itertools.chain.from_iterable(e.items() for e in state.optimizer.state.values())
    found |= {f"{number}.{name}": value for number, (name, value) in enumerate(moments)}
    return {name: v.clone() for name, v in found.items() if v.is_floating_point()}


def test_a_resumed_run_on_the_gpu_goes_on_from_its_checkpoint(
    digits_folder: Path, tmp_path: Path
) -> None:
    options = {"device": "cuda", "cache_root": tmp_path / "cache"}
    config = tiny(precision="fp64", encoder="test_vit", preset="none")
    train(config, digits_folder, tmp_path / "calm", **options)
    out = tmp_path / "run"
    assert train(config, digits_folder, out, stop_after=7, **options) is None
    state = load_newest(out, torch.device("cpu"), print)
    assert state is not None
    assert state["step"] == 7
    train(config, digits_folder, out, **options)
    assert losses(out) == pytest.approx(losses(tmp_path / "calm"), abs=1e-9)
