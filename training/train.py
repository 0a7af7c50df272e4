"""The plan of the training stage: data -> views -> method -> steps -> checkpoints -> bundle."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from jepack import threads
from jepack.bundle import Bundle
from jepack.encoder import Encoder
from jepack.errors import ConfigError
from jepack.files import check_writable, write_json
from jepack.images import ImageFile, find_images, source_name
from jepack.intensity import Window
from jepack.names import marked, tell, valid
from jepack.preprocess import Preprocessing
from training import bundling, monitor, sameness
from training.aside import refuse_inner_start
from training.batches import Cutter, Finisher, Prefetcher
from training.budget import Budget
from training.bundling import Split
from training.checking import Checker
from training.config import TrainConfig
from training.curves import draw_curves, threads_used
from training.data import Cache, guess_channels, measure_window, open_cache
from training.distributed import Ranks, Votes, alone, broadcast, ranks, together
from training.evaluate import Evaluation
from training.fitting import check_encoder
from training.health import Health
from training.monitor import Monitor
from training.ranges import cautions
from training.regularisers import FLOORS
from training.saving import (
    begin,
    finished_bundle,
    keep_bundle,
    refuse_early,
    restarted,
    resume,
    save,
    told_finished,
)
from training.splits import training_split
from training.starting import State, build, check_sizes, settle, steps_of
from training.stepping import Entry, Unread, judge, take_step
from training.stopping import Stop, stop_signals
from training.stream import open_stream
from training.trackers import check as check_trackers
from training.trackers import open_trackers
from training.views import preset


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

    The same run only: ConfigError when its settings or images differ in what decides a run (sameness.py).
    With `fresh` the run found there is moved aside and this one starts. A finished run gives its bundle.
    `log` names trackers beside TensorBoard: wandb, trackio.
    Returns None when `stop_after` (a step count, for tests and split jobs) ended it early.
    """
    if valid(str(out)) != str(out):
        raise ConfigError(f"--out {out}: not a UTF-8 name, which TensorBoard needs. Choose another")
    refuse_inner_start(out, config.init)
    check_trackers(log)
    # Compiled code is made for one number of threads, and made again, in minutes, for another.
    number = config.threads or (torch.get_num_threads() if config.compile else 0)
    with ranks(device) as here, stop_signals() as stop, threads.fixing(number):
        config, fresh = settle(config, here), fresh and not restarted()
        check_encoder(config)
        if not fresh:
            refuse_early(out, config)
        if not (out / "bundle").is_dir():  # a finished run is only read
            check_writable(out)
        known = None if fresh else out
        config, window, cache = prepare_data(config, data, here, cache_root, known)
        preprocessing = together(here, lambda: serving_preprocessing(config, cache, window))
        parts = split_of(config, cache.files, here)
        seed_everything(config, 0, here)
        state = build(config, here)
        state.total = steps_of(config, len(parts.train))
        state.record = sameness.record(config, cache, parts, license)
        if not fresh:
            resume(state, out, config, here)
        kept = broadcast(here.first and finished_bundle(state, out) is not None)
        if kept:
            return told_finished(state, out) if here.first else None
        repeated = {} if fresh else threads_used(out, state.step)
        floor = FLOORS.get(config.regulariser)
        alone(here, lambda: begin(state, out, config, preprocessing, cache, fresh))
        trackers = open_trackers(log, out, config.to_json()) if here.first else []
        watcher = Monitor(
            out, state.total, state.step, active=here.first, floor=floor, trackers=trackers
        )
        if here.first:
            announce(watcher, config, cache, state, data)
            license = state.record["license"]
            source = bundling.provenance(config, cache, parts.held_out, data, license)
            write_json(out / "provenance.json", source | {"history": state.record["history"]})
        with watcher, stop.after_a_step():
            done = loop(
                config, state, cache, parts, preprocessing, here, out, watcher, stop, stop_after,
                repeated,
            )  # fmt: skip
        best = state.best()
        if not done:
            return None

        def finish() -> Bundle:
            watcher.table()
            if config.stream:  # what was found bad on the way, by this rank
                write_json(out / "bad_images.json", [list(entry) for entry in cache.bad])
            draw_curves(out, floor)
            if kept_aside := keep_bundle(state, out):
                watcher.say(marked(kept_aside))
            watcher.say("calibrating and writing the bundle ...")
            return bundling.write(
                out / "bundle", best, config, preprocessing, cache, parts,
                {
                    **source, "history": state.record["history"], "steps": state.step,
                    "labels": state.record["data"]["labels"],
                    "last_figures": state.seconds,
                }, out / "curves.png",
                device=here.device,
            )  # fmt: skip

        return alone(here, finish)


def prepare_data(
    config: TrainConfig, data: Path, here: Ranks, root: Path | None, run: Path | None = None
) -> tuple[TrainConfig, Window, Cache]:
    """Decode once, on rank 0; everyone opens the same cache. Or a stream, which keeps nothing.

    Before that the number of images is judged, also by the `run` that is to be continued.
    """
    cut: dict[str, Any] = {"tile": config.tile, "stride": config.tile_stride}

    def measure() -> tuple[int, Window]:
        notes: list[str] = []
        files = find_images(data, parts=True, notes=notes, **cut)
        tell(Console(stderr=True), notes)
        if run is not None:
            refuse_early(run, config, len(files))
        split_of(config, files, here)
        channels = config.channels or guess_channels(files)
        measured = channels, measure_window(files, config.window, channels)
        tell(Console(stderr=True), cautions(files, *measured))
        return measured

    channels, window = broadcast(alone(here, measure))
    config = replace(config, channels=channels)
    arguments: dict[str, Any] = {
        "side": config.kept_side, "channels": channels, "window": window, "max_bad": config.max_bad, **cut,
    }  # fmt: skip
    if config.stream:
        return config, window, together(here, lambda: open_stream(data, **arguments))
    arguments |= {"root": root, "workers": config.workers}

    def decode() -> Cache:
        with monitor.counter("decode") as show:
            return open_cache(data, **arguments, on_progress=show)

    decoded = alone(here, decode)

    def opened() -> Cache:  # where nodes keep caches of their own, one rank of each decodes
        return decoded if decoded is not None else open_cache(data, **arguments)

    return config, window, together(here, opened)


def split_of(config: TrainConfig, files: Sequence[ImageFile], here: Ranks) -> Split:
    """Training and held-out images. Raises DataError or ConfigError where they are too few."""
    train, held_out = training_split(
        files, config.validation_fraction, config.seed, config.group_by
    )
    check_sizes(config, len(train), len(held_out), here)
    return Split(train, held_out)


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
    repeated: dict[int, int],
) -> bool:  # fmt: skip
    """Steps until the end (True) or `stop_after` (False). KeyboardInterrupt, on all ranks, when stopped.

    `repeated`: steps that were done before a kill, and with how many threads.
    """
    if state.step >= state.total:
        return True  # a run that was killed while its bundle was made
    look = preset(config.preset, config.view_overrides)
    on_device = here.device.type == "cuda"
    cutter = Cutter(cache, parts.train, config, look, here.rank, here.world, on_device=on_device)
    finisher = Finisher(config, look, preprocessing.mean, preprocessing.std, here.device)
    checker = alone(here, lambda: Checker(config, cache, parts, preprocessing))
    health = Health(config)
    every = max(1, round(config.evaluate_epochs * len(parts.train) / config.images_per_step))
    saved = time.monotonic()
    budget = Budget(config.minutes, steps_of(config, len(parts.train)), state.step)
    chooser, threads_by_step = threads.Chooser(torch), dict[int, int]()
    votes, unread = Votes(), Unread()

    def heed(entry: Entry) -> None:
        """The figures of a step: shown, kept, and judged on every rank alike."""
        figures = judge(state, entry.reading, out) | {
            "images_per_s": config.images_per_step / entry.took_s,
            # What views cost the step: waiting for them, and finishing them on the device.
            "cut_share": (entry.waited_s + entry.views.seconds()) / entry.took_s,
        }
        number = threads_by_step.pop(entry.reading.step)
        watcher.step(entry.reading.step, figures | {"threads": number})
        health.check(state, figures, out, entry.reading.step + 1)

    def check(encoder: Encoder, number: int) -> Evaluation:
        """With the last step's number of threads, so that its figures repeat where the step does."""
        assert checker is not None
        with budget.evaluation(), chooser.turn(number=number), threads.fixing(number):
            return checker.check(state, encoder, state.seconds, watcher)

    def wishes() -> tuple[bool, bool]:
        """This rank's: to stop, to save (the first one's clock counts)."""
        return stop.asked, here.first and time.monotonic() - saved > 60 * config.checkpoint_minutes

    with Prefetcher(cutter, state.step, config.workers) as batches:
        for batch in batches:
            begin = time.perf_counter()
            seed_everything(config, state.step, here)
            with chooser.turn(number=threads_of(state.step, repeated, here)) as number:
                reading = take_step(config, state, finisher.finish(batch), here)
            threads_by_step[reading.step] = number
            unread.wait()
            took = time.perf_counter() - begin + batches.waited_s
            for entry in unread.put(Entry(reading, took, batches.waited_s, finisher.took)):
                heed(entry)
            if budget.due(state.step):
                state.total, budget.next = broadcast(budget.fit(state.total, watcher.say))
                watcher.set_total(state.total)
            last = state.step >= state.total
            if state.step % every == 0 or last:
                for entry in unread.rest():
                    heed(entry)
                state.evaluation = alone(here, partial(check, state.best(), number))
            stopping, due = votes.take(wishes())
            leaving = stopping or state.step == stop_after
            if due or leaving or last:
                for entry in unread.rest():
                    heed(entry)
                saved = time.monotonic()
                save(state, out, config, here)
            votes.cast(wishes())
            if last:  # no step follows, during which this vote could be counted
                stopping = votes.take(wishes())[0] or stopping
            if stopping or (leaving and not last):
                watcher.say(f"stopped after step {state.step}; the same command continues it")
                if stopping:
                    raise KeyboardInterrupt
                return False
            if last:
                return True
    raise AssertionError("batches never end")


def threads_of(step: int, repeated: dict[int, int], here: Ranks) -> int:
    """Threads that a step must have: those it had before a kill; 0 = a free choice.

    Several ranks wait for each other, so the time of one tells nothing of its threads: they share the cores.
    """
    if here.world == 1 and here.device.type == "cpu":
        return repeated.get(step, 0)
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", here.world))
    return threads.fixed() or max(1, min(torch.get_num_threads(), threads.cores() // ranks_here))


def announce(watcher: Monitor, config: TrainConfig, cache: Cache, state: State, data: Path) -> None:
    for doubt in config.doubts():
        watcher.warn(doubt)
    labels = f", {len(cache.classes)} classes" if cache.classes else ""
    watcher.say(
        f"[bold]{len(cache):,} images[/]{labels}, {cache.channels} channel(s), "
        f"from {marked(source_name(data))}\n"
        f"{config.method} · {config.encoder} · {config.global_views}x{config.size} px"
        + (f" + {config.local_views}x{config.local_size} px" if config.local_views else "")
        + f" views · {config.images_per_step} images per step · preset {config.preset}"
    )
    if cache.bad:
        watcher.warn(f"{len(cache.bad)} unreadable images skipped, see bad_images.json")
    if state.step:
        watcher.say(f"continuing after step {state.step} of {state.total}")
    for note in state.notes:
        watcher.say(marked(note))


def seed_everything(config: TrainConfig, step: int, here: Ranks) -> None:
    """Dropout and noise of a step depend on (seed, step, rank) alone, so resuming repeats them.

    The first call (step 0) seeds the initial weights: the same on every rank.
    """
    torch.manual_seed(config.seed * 1_000_003 + step * 1_009 + (here.rank if step else 0))
