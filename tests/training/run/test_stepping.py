"""One step, on a device that the step does not wait for: what it does when a gradient is not finite."""

from __future__ import annotations

import copy
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from training import bundling, loop
from training.data import images
from training.parallel import Ranks, stop_signals
from training.run import Entry, Session, Unread, judge, starting, stepping, take_step, weights
from training.run.stepping import Reading
from training.settings import TrainConfig, recipe
from training.train import train
from training.views import Took, Views

HERE = Ranks(0, 1, torch.device("cpu"))
CONFIG = replace(
    recipe("quickstart"), encoder="test_resnet", size=32, global_views=2, slices=32, images_per_step=8,
    channels=1, projector_hidden=32, projection_dims=8, precision="fp32",
)  # fmt: skip


class Reads(TorchDispatchMode):
    """Counts numbers that are read from tensors; a GPU would be waited for at each."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(word in str(func) for word in ("_local_scalar_dense", "nonzero", "is_nonzero")):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def views(step: int, value: float | None = None) -> Views:
    pixels = torch.randn(2, 8, 1, 32, 32, generator=torch.Generator().manual_seed(step))
    return Views(step, pixels if value is None else pixels * value, None)


def made(monkeypatch: pytest.MonkeyPatch, config: TrainConfig, *, like_gpu: bool) -> Session:
    """A run's state; with the optimizer's one kernel and late figures, as on a GPU, where `like_gpu`."""
    torch.manual_seed(0)
    session = starting.build_session(config, HERE)
    session.state.total = 100
    if like_gpu:
        for group in session.state.optimizer.param_groups:
            group["fused"] = True
        monkeypatch.setattr(
            stepping,
            "on_its_way",
            lambda step, rate, names, values: Reading(step, rate, names, values, Reached()),
        )
    return session


class Reached:
    """An event of a device that has got there."""

    def synchronize(self) -> None:
        pass


def kept(session: Session) -> dict[str, Any]:
    """Weights, BatchNorm's figures and moments."""
    found = {
        k: v.clone()
        for k, v in session.state.method.trained.state_dict().items()
        if v.is_floating_point()
    }
    for number, entry in enumerate(session.state.optimizer.state.values()):
        found |= {f"{number}.{name}": value.clone() for name, value in entry.items()}
    return found


def test_a_step_on_a_gpu_reads_no_number_back(monkeypatch: pytest.MonkeyPatch) -> None:
    session = made(monkeypatch, replace(CONFIG, ema_decay=0.0, gradient_clip=1.0), like_gpu=True)
    take_step(CONFIG, session, views(0), HERE)  # makes what is kept
    with Reads() as reads:
        reading = take_step(CONFIG, session, views(1), HERE)
    assert reads.found == []
    assert judge(session, reading)["gradient_norm"] > 0  # type: ignore[arg-type]
    with Reads() as reads:
        take_step(CONFIG, made(monkeypatch, CONFIG, like_gpu=False), views(1), HERE)
    assert reads.found  # the count counts


@pytest.mark.parametrize("like_gpu", [False, True])
def test_a_step_that_is_not_finite_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, like_gpu: bool
) -> None:
    session = made(monkeypatch, CONFIG, like_gpu=like_gpu)
    judge(session, take_step(CONFIG, session, views(0), HERE))  # type: ignore[arg-type]
    before, average = kept(session), [p.clone() for p in session.state.average.parameters()]  # type: ignore[union-attr]
    figures = judge(session, take_step(CONFIG, session, views(1, float("nan")), HERE))  # type: ignore[arg-type]
    assert figures["loss"] != figures["loss"]
    assert (session.bad_steps, session.state.step) == (1, 2)
    after = kept(session)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.isfinite().all() for p in session.state.average.parameters())  # type: ignore[union-attr]
    assert len(average) > 0
    judge(session, take_step(CONFIG, session, views(2), HERE))  # type: ignore[arg-type]
    assert session.bad_steps == 0
    assert not all(torch.equal(before[name], value) for name, value in kept(session).items())


def test_steps_on_a_gpu_are_those_on_a_cpu_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = replace(CONFIG, precision="fp64")
    found = []
    for like_gpu in (False, True):
        session = made(monkeypatch, exact, like_gpu=like_gpu)
        for step in range(3):
            batch = views(step)
            batch = replace(batch, global_views=batch.global_views.double())
            reading = take_step(exact, session, batch, HERE)
        found.append((reading.figures()["loss"], kept(session)))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-12)
    for name, value in found[0][1].items():
        assert float((value - found[1][1][name]).abs().max()) < 1e-9, name


def test_figures_of_a_gpu_are_read_a_step_late_and_none_is_lost() -> None:
    def entry(step: int, ready: Any) -> Entry:
        return Entry(Reading(step, 0.1, ("loss",), torch.ones(1), ready), 1.0, 0.0, Took())

    late, now = Unread(), Unread()
    seen = [[e.reading.step for e in late.put(entry(step, Reached()))] for step in range(3)]
    assert seen == [[], [0], [1]]
    assert [e.reading.step for e in late.rest()] == [2]
    assert late.rest() == []
    assert [[e.reading.step for e in now.put(entry(step, None))] for step in range(2)] == [[0], [1]]


@pytest.mark.parametrize("from_gpu", [False, True])
def test_a_checkpoint_goes_on_with_the_kernel_of_its_new_device(
    monkeypatch: pytest.MonkeyPatch, from_gpu: bool
) -> None:
    old, new = (made(monkeypatch, CONFIG, like_gpu=kind) for kind in (from_gpu, not from_gpu))
    take_step(CONFIG, old, views(0), HERE)
    own = [group["fused"] for group in new.state.optimizer.param_groups]
    weights.load_plain(new.state, copy.deepcopy(weights.plain(old.state)))
    assert [group["fused"] for group in new.state.optimizer.param_groups] == own
    assert all(torch.equal(kept(old)[name], value) for name, value in kept(new).items())
    take_step(CONFIG, new, views(1), HERE)


def test_the_order_of_an_epoch_is_drawn_once() -> None:
    images.epoch_order.cache_clear()
    steps = [images.images_of_step(10, 4, step, seed=3) for step in range(25)]
    assert images.epoch_order.cache_info().misses == 10
    every = np.concatenate(steps).reshape(10, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in every.tolist())


def test_a_signal_ends_work_at_once_and_steps_after_the_one_that_runs() -> None:
    with stop_signals() as stop:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        with stop.after_a_step():
            signal.raise_signal(signal.SIGTERM)
            assert stop.asked
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)


def test_a_run_stopped_while_its_bundle_is_made_goes_straight_to_it(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(
        CONFIG, encoder="test_vit", epochs=1, minutes=None, images_per_step=16, eval_size=32
    )
    run, options = tmp_path / "run", {"device": "cpu", "cache_root": tmp_path / "cache"}

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(bundling, "conclude", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config, digits_folder, run, **options)
    log = (run / "log.jsonl").read_text()
    monkeypatch.setattr(loop, "Checker", stop)  # nothing of the steps is begun
    monkeypatch.setattr(loop, "Prefetcher", stop)
    assert train(config, digits_folder, run, **options) is not None
    assert (run / "log.jsonl").read_text() == log
