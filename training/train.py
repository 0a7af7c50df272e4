"""The plan of the training stage: data -> views -> method -> steps -> checkpoints -> bundle."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from jepack.bundle import Bundle
from jepack.encoder import Encoder
from jepack.errors import ConfigError
from jepack.files import check_writable, write_json
from jepack.machine import threads
from jepack.names import marked, valid
from jepack.sources import ImageFile, Source, classes_of
from training import bundling
from training.methods import FLOORS
from training.parallel import Ranks, Stop, Votes, alone, broadcast, ranks, stop_signals
from training.run import (
    Budget,
    Entry,
    Prepared,
    Session,
    Unread,
    begin,
    finished_bundle,
    judge,
    keep_bundle,
    prepare,
    refuse_inner_start,
    restarted,
    resume,
    save,
    seed_everything,
    take_step,
    told_finished,
)
from training.settings import TrainConfig
from training.views import Prefetcher
from training.watch import Checker, Health, Monitor, draw_curves, open_trackers, threads_used
from training.watch import check as check_trackers


def train(
    config: TrainConfig,
    data: Source | Path | str,
    out: Path,
    *,
    device: str | None = None,
    fresh: bool = False,
    license: str = "not stated",
    cache_root: Path | None = None,
    stop_after: int | None = None,
    log: Sequence[str] = (),
    found: Sequence[ImageFile] | None = None,
) -> Bundle | None:
    """Train on a folder of images (see Source) and write `out`/bundle. Continues a run found in `out`.

    The same run only: ConfigError when its settings or images differ in what decides a run (sameness.py).
    With `fresh` the run found there is moved aside and this one starts. A finished run gives its bundle.
    `log` names trackers beside TensorBoard: wandb, trackio. `found`: the images, if found already.
    Returns None when `stop_after` (a step count, for tests and split jobs) ended it early.
    """
    if valid(str(out)) != str(out):
        raise ConfigError(f"--out {out}: not a UTF-8 name, which TensorBoard needs. Choose another")
    refuse_inner_start(out, config.init)
    check_trackers(log)
    source = Source.of(data)
    # Compiled code is made for one number of threads, and made again, in minutes, for another.
    number = config.threads or (torch.get_num_threads() if config.compile else 0)
    with ranks(device) as here, stop_signals() as stop, threads.fixing(number):
        fresh = fresh and not restarted()
        if not (out / "bundle").is_dir():  # a finished run is only read
            check_writable(out)
        prepared = prepare(
            config, source, here, cache_root=cache_root, run=None if fresh else out, found=found
        )
        config = prepared.config
        session = prepared.start()
        state = session.state
        state.record = prepared.record(license)
        if not fresh:
            resume(session, out, config, here)
        kept = broadcast(here.first and finished_bundle(session, out) is not None)
        if kept:
            return told_finished(state, out) if here.first else None
        repeated = {} if fresh else threads_used(out, state.step)
        look, images = prepared.preprocessing, prepared.images
        alone(here, lambda: begin(state, out, config, look, images, fresh))
        origin = alone(here, lambda: bundling.provenance(prepared, state.record))
        watcher = None
        if origin is not None:
            watcher = watching(prepared, session, out, log)
            write_json(out / "provenance.json", origin)
        with ExitStack() as stack:
            if watcher is not None:
                stack.enter_context(watcher)
            stack.enter_context(stop.after_a_step())
            done = loop(prepared, session, out, watcher, stop, stop_after, repeated)
        best = session.best()
        if not done:
            return None
        if watcher is None or origin is None:
            return alone(here, lambda: None)
        return alone(here, lambda: finish(prepared, session, best, out, watcher, origin))


def watching(prepared: Prepared, session: Session, out: Path, log: Sequence[str]) -> Monitor:
    """Opens what the run shows and keeps, and says how it begins."""
    config, state = prepared.config, session.state
    trackers = open_trackers(log, out, config.to_json())
    floor = FLOORS.get(config.regulariser)
    watcher = Monitor(out, state.total, state.step, floor=floor, trackers=trackers)
    announce(watcher, prepared, session)
    return watcher


def finish(
    prepared: Prepared, session: Session, best: Encoder, out: Path, watcher: Monitor,
    origin: dict[str, Any],
) -> Bundle:  # fmt: skip
    """The first rank's last work."""
    state = session.state
    watcher.table()
    if prepared.config.stream:  # what was found bad on the way, by this rank
        write_json(out / "bad_images.json", [list(entry) for entry in prepared.images.bad])
    draw_curves(out, FLOORS.get(prepared.config.regulariser))
    if kept_aside := keep_bundle(state, out):
        watcher.say(marked(kept_aside))
    watcher.say("calibrating and writing the bundle ...")
    origin = origin | {
        "steps": state.step,
        "labels": state.record["data"]["labels"],
        "last_figures": session.losses,
    }
    return bundling.write(out / "bundle", best, prepared, origin, out / "curves.png")


def loop(
    prepared: Prepared, session: Session, out: Path, watcher: Monitor | None, stop: Stop,
    stop_after: int | None, repeated: dict[int, int],
) -> bool:  # fmt: skip
    """Steps until the end (True) or `stop_after` (False). KeyboardInterrupt, on all ranks, when stopped.

    `repeated`: steps that were done before a kill, and with how many threads.
    """
    config, here, state = prepared.config, prepared.here, session.state
    if state.step >= state.total:
        return True  # a run that was killed while its bundle was made
    cutter, finisher = prepared.cutter(), prepared.finisher()
    checker = alone(here, lambda: Checker(prepared))
    health = Health(config)
    images = len(prepared.split.train)
    every = max(1, round(config.evaluate_epochs * images / config.images_per_step))
    saved = time.monotonic()
    budget = Budget(config.minutes, prepared.steps, state.step)
    chooser, threads_by_step = threads.Chooser(torch), dict[int, int]()
    votes, unread = Votes(), Unread()

    def say(text: str) -> None:
        if watcher is not None:
            watcher.say(text)

    def heed(entry: Entry) -> None:
        """The figures of a step: shown, kept, and judged on every rank alike."""
        figures = judge(session, entry.reading) | {
            "images_per_s": config.images_per_step / entry.took_s,
            # What views cost the step: waiting for them, and finishing them on the device.
            "cut_share": (entry.waited_s + entry.views.seconds()) / entry.took_s,
        }
        number = threads_by_step.pop(entry.reading.step)
        if watcher is not None:
            watcher.step(entry.reading.step, figures | {"threads": number})
        health.check(session, figures, entry.reading.step + 1)

    def check(encoder: Encoder, number: int) -> None:
        """With the last step's number of threads, so that its figures repeat where the step does."""
        assert checker is not None
        assert watcher is not None
        with budget.evaluation(), chooser.turn(number=number), threads.fixing(number):
            checker.check(session, encoder, watcher)

    def wishes() -> tuple[bool, bool]:
        """This rank's: to stop, to save (the first one's clock counts)."""
        return stop.asked, here.first and time.monotonic() - saved > 60 * config.checkpoint_minutes

    with Prefetcher(cutter, state.step, config.workers) as batches:
        for batch in batches:
            begin = time.perf_counter()
            seed_everything(config, state.step, here)
            with chooser.turn(number=threads_of(state.step, repeated, here)) as number:
                views = finisher.finish(batch)
                reading = take_step(config, session, views, here)
            threads_by_step[reading.step] = number
            unread.wait()
            took = time.perf_counter() - begin + batch.waited_s
            for entry in unread.put(Entry(reading, took, batch.waited_s, views.took)):
                heed(entry)
            if budget.due(state.step):
                state.total, budget.next = broadcast(budget.fit(state.total, say))
                if watcher is not None:
                    watcher.set_total(state.total)
            last = state.step >= state.total
            if state.step % every == 0 or last:
                for entry in unread.rest():
                    heed(entry)
                alone(here, partial(check, session.best(), number))
            stopping, due = votes.take(wishes())
            leaving = stopping or state.step == stop_after
            if due or leaving or last:
                for entry in unread.rest():
                    heed(entry)
                saved = time.monotonic()
                save(session, out, config, here)
            votes.cast(wishes())
            if last:  # no step follows, during which this vote could be counted
                stopping = votes.take(wishes())[0] or stopping
            if stopping or (leaving and not last):
                say(f"stopped after step {state.step}; the same command continues it")
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


def announce(watcher: Monitor, prepared: Prepared, session: Session) -> None:
    config, images, state = prepared.config, prepared.images, session.state
    for doubt in config.doubts():
        watcher.warn(doubt)
    classes = classes_of(images.files)
    labels = f", {len(classes)} classes" if classes else ""
    watcher.say(
        f"[bold]{len(images):,} images[/]{labels}, {images.channels} channel(s), "
        f"from {marked(prepared.source.text)}\n"
        f"{config.method} · {config.encoder} · {config.global_views}x{config.size} px"
        + (f" + {config.local_views}x{config.local_size} px" if config.local_views else "")
        + f" views · {config.images_per_step} images per step · preset {config.preset}"
    )
    if images.bad:
        watcher.warn(f"{len(images.bad)} unreadable images skipped, see bad_images.json")
    if state.step:
        watcher.say(f"continuing after step {state.step} of {state.total}")
    for note in session.notes:
        watcher.say(marked(note))
