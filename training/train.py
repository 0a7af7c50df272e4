"""The plan of the training stage: data -> views -> method -> steps -> checkpoints -> bundle."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from jepack.bundle import Bundle
from jepack.errors import TrainingError
from jepack.files import write_json
from jepack.images import find_images, source_name
from jepack.intensity import Window
from jepack.preprocess import Preprocessing
from training import bundling, monitor
from training.batches import Cutter, Finisher, Prefetcher
from training.bundling import Split
from training.checking import Checker, last_good, told
from training.config import TrainConfig
from training.curves import draw_curves
from training.data import Cache, guess_channels, measure_window, open_cache
from training.distributed import Ranks, any_rank, barrier, broadcast, ranks
from training.health import Health
from training.monitor import Monitor
from training.regularisers import FLOORS
from training.saving import resume, save
from training.schedule import learning_rate, weight_decay
from training.splits import training_split
from training.starting import State, build, check_sizes, settle, steps_of
from training.stopping import Stop, stop_signals
from training.stream import open_stream
from training.trackers import open_trackers
from training.views import preset

TIMED_STEPS = 8
MAX_BAD_STEPS = 3


def train(
    config: TrainConfig,
    data: Path,
    out: Path,
    *,
    device: str | None = None,
    fresh: bool = False,
    license: str = "not stated",
    cache_root: Path | None = None,
    stop_after: int | None = None,
    log: Sequence[str] = (),
) -> Bundle | None:
    """Train on a folder of images and write `out`/bundle. Continues a run found in `out`.

    `log` names trackers beside TensorBoard: wandb, trackio.
    Returns None when `stop_after` (a step count, for tests and split jobs) ended it early.
    """
    with ranks(device) as here, stop_signals() as stop:
        config, window, cache = prepare_data(settle(config, here), data, here, cache_root)
        preprocessing = serving_preprocessing(config, cache, window)
        parts = Split(
            *training_split(cache.files, config.validation_fraction, config.seed, config.group_by)
        )
        check_sizes(config, len(parts.train), here)
        seed_everything(config, 0, here)
        state = build(config, here)
        state.total = steps_of(config, len(parts.train))
        resume(state, out, config, here, fresh)
        floor = FLOORS.get(config.regulariser)
        trackers = open_trackers(log, out, config.to_json()) if here.first else []
        watcher = Monitor(
            out, state.total, state.step, active=here.first, floor=floor, trackers=trackers
        )
        if here.first:
            announce(watcher, config, cache, state, data)
            write_json(out / "config.json", config.to_json())
            write_json(out / "preprocessing.json", preprocessing.to_json())
            write_json(
                out / "provenance.json",
                bundling.provenance(config, cache, parts.held_out, data, license),
            )
            write_json(out / "bad_images.json", [list(entry) for entry in cache.bad])
        with watcher:
            done = loop(
                config, state, cache, parts, preprocessing, here, out, watcher, stop, stop_after
            )
        best = state.best()
        if not done or not here.first:
            barrier()
            return None
        watcher.table()
        if config.stream:  # what was found bad on the way, by this rank
            write_json(out / "bad_images.json", [list(entry) for entry in cache.bad])
        draw_curves(out, floor)
        source = bundling.provenance(config, cache, parts.held_out, data, license)
        watcher.say("calibrating and writing the bundle ...")
        result = bundling.write(
            out / "bundle", best, config, preprocessing, cache, parts,
            {**source, "steps": state.step, "last_figures": state.seconds}, out / "curves.png",
        )  # fmt: skip
        barrier()
        return result


def prepare_data(
    config: TrainConfig, data: Path, here: Ranks, root: Path | None
) -> tuple[TrainConfig, Window, Cache]:
    """Decode once, on rank 0; everyone opens the same cache. Or a stream, which keeps nothing."""
    cut = {"tile": config.tile, "stride": config.tile_stride}
    measured = None
    if here.first:
        files = find_images(data, parts=True, **cut)
        channels = config.channels or guess_channels(files)
        measured = channels, measure_window(files, config.window, channels)
    channels, window = broadcast(measured)
    config = replace(config, channels=channels)
    side = config.cache_side or round(1.25 * max(config.size, config.serving_size))
    arguments: dict[str, Any] = {
        "side": side, "channels": channels, "window": window, "max_bad": config.max_bad, **cut,
    }  # fmt: skip
    if config.stream:
        return config, window, open_stream(data, **arguments)
    arguments |= {"root": root, "workers": config.workers}
    if here.first:
        with monitor.counter("decode") as show:
            cache = open_cache(data, **arguments, on_progress=show)
    barrier()
    return config, window, cache if here.first else open_cache(data, **arguments)


def serving_preprocessing(config: TrainConfig, cache: Cache, window: Window) -> Preprocessing:
    """Mean and std measured on a sample of the images, per channel."""
    chosen = np.linspace(0, len(cache) - 1, min(len(cache), 512)).astype(int)
    flat = [cache[i].reshape(-1, cache.channels) / 255.0 for i in np.unique(chosen)]
    mean = np.mean([pixels.mean(axis=0) for pixels in flat], axis=0)
    variance = np.mean([((pixels - mean) ** 2).mean(axis=0) for pixels in flat], axis=0)
    return Preprocessing(
        size=config.serving_size,
        channels=cache.channels,
        window=window,
        mean=tuple(round(float(value), 4) for value in mean),
        std=tuple(round(max(float(value), 0.01), 4) for value in np.sqrt(variance)),
    )


def loop(
    config: TrainConfig, state: State, cache: Cache, parts: Split, preprocessing: Preprocessing,
    here: Ranks, out: Path, watcher: Monitor, stop: Stop, stop_after: int | None,
) -> bool:  # fmt: skip
    """Steps until the end (True), a stop signal or `stop_after` (False)."""
    look = preset(config.preset, config.view_overrides)
    on_device = here.device.type == "cuda"
    cutter = Cutter(cache, parts.train, config, look, here.rank, here.world, on_device=on_device)
    finisher = Finisher(config, look, preprocessing.mean, preprocessing.std, here.device)
    checker = Checker(config, cache, parts, preprocessing) if here.first else None
    health = Health(config)
    every = max(1, round(config.evaluate_epochs * len(parts.train) / config.images_per_step))
    saved = started = time.monotonic()
    timed: list[float] = []
    most = steps_of(config, len(parts.train))
    with Prefetcher(cutter, state.step, config.workers) as batches:
        for batch in batches:
            if state.step >= state.total:
                return True
            begin = time.perf_counter()
            seed_everything(config, state.step, here)
            figures = one_step(config, state, finisher.finish(batch), here, out)
            took = time.perf_counter() - begin + batches.waited_s
            figures |= {
                "images_per_s": config.images_per_step / took,
                # What views cost the step: waiting for them, and finishing them on the device.
                "cut_share": (batches.waited_s + finisher.seconds()) / took,
            }
            watcher.step(state.step - 1, figures)
            health.check(state, figures, out)
            timed.append(took)
            if config.minutes and len(timed) % TIMED_STEPS == 0:
                fit_budget(config, state, timed, time.monotonic() - started, watcher, most)
            if state.step % every == 0 or state.step == state.total:
                encoder = state.best()
                if checker is not None:
                    state.evaluation = checker.check(state, encoder, figures, watcher)
                barrier()
            stopping = any_rank(stop.asked, here.device) or state.step == stop_after
            due = time.monotonic() - saved > 60 * config.checkpoint_minutes
            if broadcast(due) or stopping or state.step == state.total:
                saved = time.monotonic()
                save(state, out, config, here)
            if stopping and state.step < state.total:
                watcher.say(f"stopped after step {state.step}; the same command continues it")
                if stop.asked:
                    raise KeyboardInterrupt
                return False
    return True


def one_step(
    config: TrainConfig, state: State, views: Any, here: Ranks, out: Path
) -> dict[str, float]:
    """Loss, gradient, update. A non-finite gradient is never applied."""
    method, optimizer = state.method, state.optimizer
    rate = learning_rate(
        state.step, state.total, peak=config.learning_rate,
        warmup_fraction=config.warmup_fraction, final_fraction=config.final_lr_fraction,
    )  # fmt: skip
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.param_groups[0]["weight_decay"] = weight_decay(
        state.step, state.total, config.weight_decay, config.weight_decay_end
    )
    optimizer.zero_grad(set_to_none=True)
    method.trained.train()
    figures: dict[str, float] = method.backward(views).floats()
    limit = config.gradient_clip or float("inf")
    norm = whole_number(nn.utils.clip_grad_norm_(method.trained.parameters(), limit))
    if np.isfinite(norm) and np.isfinite(figures["loss"]):
        optimizer.step()
        method.after_step((state.step + 1) / state.total)
        if state.average is not None:
            state.average.update_parameters(method.encoder)
        state.bad_steps = 0
    else:
        state.bad_steps += 1
        if state.bad_steps >= MAX_BAD_STEPS:
            raise TrainingError(
                f"step {state.step}: {MAX_BAD_STEPS} steps in a row gave non-finite values "
                f"({told(figures)}, gradient norm {norm:g}); none was applied. "
                f"{last_good(state, out)} Try --precision fp32, a lower --learning-rate, or "
                "--set gradient_clip=1."
            )
    state.step += 1
    state.seconds = figures
    return figures | {"learning_rate": rate, "gradient_norm": norm}


def whole_number(value: Any) -> float:
    """A scalar tensor, sharded or not, as a float."""
    return float(getattr(value, "full_tensor", lambda: value)())


def fit_budget(
    config: TrainConfig, state: State, timed: list[float], spent: float, watcher: Monitor, most: int
) -> None:
    """Fit the run into its wall-clock budget; the schedule then ends where the run ends."""
    assert config.minutes is not None
    recent = sorted(timed[-2 * TIMED_STEPS :])
    per_step = recent[len(recent) // 2] * 1.1  # evaluation and a noisy machine
    room = max(0.0, 60 * config.minutes - spent)
    fits = broadcast(min(most, state.step + max(1, int(room / per_step))))
    if abs(fits - state.total) > 0.1 * state.total:  # a busy machine's speed swings
        watcher.say(
            f"{per_step:.2f} s per step: {fits} of {most} steps fit into {config.minutes:g} minutes"
        )
        state.total = fits
        watcher.set_total(fits)


def announce(watcher: Monitor, config: TrainConfig, cache: Cache, state: State, data: Path) -> None:
    for doubt in config.doubts():
        watcher.warn(doubt)
    labels = f", {len(cache.classes)} classes" if cache.classes else ""
    watcher.say(
        f"[bold]{len(cache):,} images[/]{labels}, {cache.channels} channel(s), from {source_name(data)}\n"
        f"{config.method} · {config.encoder} · {config.global_views}x{config.size} px"
        + (f" + {config.local_views}x{config.local_size} px" if config.local_views else "")
        + f" views · {config.images_per_step} images per step · preset {config.preset}"
    )
    if cache.bad:
        watcher.warn(f"{len(cache.bad)} unreadable images skipped, see bad_images.json")
    if state.step:
        watcher.say(f"continuing after step {state.step} of {state.total}")


def seed_everything(config: TrainConfig, step: int, here: Ranks) -> None:
    """Dropout and noise of a step depend on (seed, step, rank) alone, so resuming repeats them.

    The first call (step 0) seeds the initial weights: the same on every rank.
    """
    torch.manual_seed(config.seed * 1_000_003 + step * 1_009 + (here.rank if step else 0))
