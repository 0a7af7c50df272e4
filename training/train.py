"""The plan of the training stage: data -> views -> method -> steps -> checkpoints -> bundle."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from jepack.bundle import Bundle, load
from jepack.decoding import elongation
from jepack.disk import check_writable
from jepack.encoder import Encoder
from jepack.errors import ConfigError
from jepack.files import write_json
from jepack.machine import threads
from jepack.names import marked, valid
from jepack.sources import ImageFile, Source, classes_of
from training import bundling
from training.data import Cache
from training.loop import Loop
from training.methods import FLOORS
from training.parallel import alone, broadcast, ranks, stop_signals
from training.run import (
    Prepared,
    Session,
    begin,
    finished_bundle,
    keep_bundle,
    prepare,
    refuse_inner_start,
    restarted,
    resume,
    told_finished,
)
from training.settings import TrainConfig
from training.watch import Monitor, draw_curves, open_trackers, threads_used
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
    listed: Sequence[ImageFile] | None = None,
) -> Bundle | None:
    """Train on a folder of images (see Source) and write `out`/bundle. Continues a run found in `out`.

    The same run only: ConfigError when its settings or images differ in what decides a run (sameness.py).
    With `fresh` the run found there is moved aside and this one starts. A finished run gives its bundle.
    `log` names trackers beside TensorBoard: wandb, trackio. `listed`: the images, if listed already.
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
            config, source, here, cache_root=cache_root, run=None if fresh else out, listed=listed
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
        watcher, origin = open_run(prepared, session, out, log, fresh=fresh)
        with ExitStack() as stack:
            if watcher is not None:
                stack.enter_context(watcher)
            stack.enter_context(stop.after_a_step())
            done = True
            if state.step < state.total:  # else it was killed while its bundle was made
                done = Loop(prepared, session, out, watcher, stop, stop_after, repeated).run()
        best = session.best()
        if not done:
            return None
        if watcher is None or origin is None:
            return alone(here, lambda: None)
        return alone(here, lambda: finish(prepared, session, best, out, watcher, origin))


def open_run(
    prepared: Prepared, session: Session, out: Path, log: Sequence[str], *, fresh: bool
) -> tuple[Monitor | None, dict[str, Any] | None]:
    """The first writing into `out`: (what shows the run, where its encoder comes from), on the first rank."""
    here, state = prepared.here, session.state
    preprocessing, images = prepared.preprocessing, prepared.images
    alone(here, lambda: begin(state, out, prepared.config, preprocessing, images, fresh))
    origin = alone(here, lambda: bundling.provenance(prepared, state.record))
    if origin is None:
        return None, None
    watcher = watching(prepared, session, out, log)
    write_json(out / "provenance.json", origin)
    return watcher, origin


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
    origin = origin | {
        "steps": state.step,
        "labels": state.record["data"]["labels"],
        "last_figures": session.losses,
    }
    return bundling.conclude(prepared, session, best, out, watcher, origin)


def announce(watcher: Monitor, prepared: Prepared, session: Session) -> None:
    config, images, state = prepared.config, prepared.images, session.state
    for doubt in [*config.doubts(), *(doubts_of_start(config, session) if not state.step else ())]:
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
    shapes = (
        images.shapes.tolist() if isinstance(images, Cache) else ()
    )  # a stream reads them later
    cropped = prepared.preprocessing.crop_mode == "center"
    if cropped and (told := elongation((height, width) for height, width in shapes)):
        watcher.warn(told)
    if state.step:
        watcher.say(f"continuing after step {state.step} of {state.total}")
    for note in session.notes:
        watcher.say(marked(note))


def doubts_of_start(config: TrainConfig, session: Session) -> list[str]:
    """What of the bundle it starts from a run may not want, a sentence each."""
    doubts: list[str] = []
    if config.init is None:
        return doubts
    encoder: Any = session.state.method.encoder
    linear = encoder.projector.config.layers == 1 and not config.new_projector
    if config.method == "lejepa" and linear:
        doubts.append(
            f"the projector of {config.init} is one linear layer, as imported encoders have it, and the loss "
            "goes through it; --set new_projector=true puts a new one in its place"
        )
    start = load(Path(config.init)).preprocessing
    if config.serving_size != start.size:
        doubts.append(
            f"the bundle will be served at {config.serving_size} px, as `eval_size` or the recipe says; its "
            f"start is at {start.size} px, which --set eval_size={start.size} keeps"
        )
    if config.window is None and start.window is not None:
        doubts.append(
            f"{config.init} was shown its images through a window and this run has none: --window"
        )
    return doubts
