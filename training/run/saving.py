"""A run's state to its checkpoint and back."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.decoding import Preprocessing
from jepack.encoder import Encoder
from jepack.errors import ArtifactError, ConfigError
from jepack.files import write_json
from jepack.names import marked_lines
from training.data import Images
from training.parallel import Ranks, alone, sharding
from training.run import checkpoint, sameness
from training.run.aside import move_aside
from training.run.schedule import learning_rate
from training.run.starting import build_session
from training.run.state import Session, State
from training.settings import TrainConfig


def save(session: Session, out: Path, config: TrainConfig, here: Ranks) -> None:
    """Write the newest checkpoint; every rank calls it."""
    state = session.state
    content = {
        "step": state.step,
        "total": state.total,
        "lowest_loss": state.lowest_loss,
        "config": config.to_json(),
        "run": state.record,
        **(gathered(state) if session.sharded else plain(state) if here.first else {}),
    }
    alone(here, lambda: checkpoint.save(out, state.step, content, config.keep_checkpoints))
    session.last_checkpoint = checkpoint.folder_of(out, state.step)


def plain(state: State) -> dict[str, Any]:
    return {
        "method": state.method.trained.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "average": None if state.average is None else state.average.state_dict(),
    }


def gathered(state: State) -> dict[str, Any]:
    """As `plain`, put together from the shards; the optimizer's by parameter name."""
    average = None
    if state.average is not None:
        inner = {
            f"module.{key}": part for key, part in sharding.whole(state.average.module).items()
        }
        average = {"n_averaged": state.average.n_averaged, **inner}
    trained = state.method.trained
    return {
        "method": sharding.whole(trained),
        "optimizer": sharding.whole_optimizer(trained, state.optimizer),
        "average": average,
    }


def refuse_early(out: Path, config: TrainConfig, files: int | None = None) -> None:
    """ConfigError when `out` holds a run of other settings, or of another number of image files.

    Known before any image is read. What is in them, and a run that was written before checkpoints told
    their settings, are for `resume`.
    """
    init = sameness.contents_of_init(config)
    data = {} if files is None else {"files": files}
    refuse_another(out, {"settings": config.to_json(), "init": init, "data": data})


def refuse_another(out: Path, now: dict[str, Any]) -> None:
    """ConfigError when the newest checkpoint of `out` tells of another run than the record `now`."""
    about = checkpoint.about_newest(out)
    if about is not None:
        changed = sameness.changes(about["run"], now)
        sameness.refuse_others(out, changed, about["step"], about["total"])
        if about["step"] >= about["total"] and not asks_for_more(changed):
            sameness.refuse_idle(out, changed, about["step"])


def resume(session: Session, out: Path, config: TrainConfig, here: Ranks) -> None:
    """Continue from the newest sound checkpoint of `out`, if there is one. Writes nothing.

    The state's record is compared with the checkpoint's: what decides the run must be the same
    (ConfigError), what may change goes into its history and into `session.notes`.
    """
    state = session.state
    warn = print_warning if here.first else lambda text: None
    found = checkpoint.load_newest(out, here.device, warn)
    if found is None:
        compare_with_bundle(session, out)
        return
    was = sameness.earlier(out, found)
    changed = sameness.changes(was, state.record)
    step, total = found["step"], found["total"]
    sameness.refuse_others(out, changed, step, total)
    if asks_for_more(changed):
        total = state.total
    if total < step:
        raise ConfigError(
            f"{out}: {'; '.join(sameness.told(changed))} makes {total} steps, but {step} are done. Give more "
            "--epochs, or choose another --out."
        )
    if total == step:
        sameness.refuse_idle(out, changed, step)
    load = load_gathered if session.sharded else load_plain
    load(state, found)
    state.lowest_loss = found.get("lowest_loss", float("inf"))  # older checkpoints lack it
    session.last_checkpoint = checkpoint.folder_of(out, step)
    state.step, state.total = step, total
    note_changes(session, config, was, changed, found["total"])


def compare_with_bundle(session: Session, out: Path) -> None:
    """A finished run whose checkpoints were thrown away is still known by its bundle.

    Of the same run, the state then stands at its end (without its weights). ConfigError otherwise: the bundle
    would be written over. A damaged one counts for nothing.
    """
    state = session.state
    try:
        source = bundles.load(out / "bundle").manifest.get("provenance") or {}
    except ArtifactError:
        return
    steps = source.get("steps", 0)
    if not steps or "recipe" not in source:
        raise ConfigError(
            f"{out / 'bundle'} was written by no training run and would be lost. Choose another --out, or "
            "move it aside with --fresh."
        )
    was = {"settings": source["recipe"], "data": source["data"]}
    changed = sameness.changes(was, state.record)
    sameness.refuse_others(out, changed, steps, steps)
    if asks_for_more(changed):
        raise ConfigError(
            f"{out} has a bundle of {steps} steps but no checkpoints to continue from. Start over with "
            f"--fresh, which moves it aside, or with --init {out / 'bundle'} and another --out."
        )
    sameness.refuse_idle(out, changed, steps)
    if state.record["license"] == sameness.NOT_STATED:
        state.record["license"] = source.get("license", sameness.NOT_STATED)
    before = state.total
    state.step = state.total = steps
    if finished_bundle(session, out) is None:  # another licence: nothing to write it with
        state.step, state.total = 0, before
        raise ConfigError(
            f"{out} has a bundle under another licence and no checkpoints to write it again from. Leave "
            "--license out, or choose another --out."
        )


def asks_for_more(changed: sameness.Changes) -> bool:
    """Whether the run's length is to be reckoned anew: other epochs, or a longer budget than it had.

    A shorter budget shortens the run by itself, as it goes.
    """
    if "minutes" in changed:
        was, now = changed["minutes"]
        if was is not None and (now is None or now > was):
            return True
    return "epochs" in changed


def note_changes(
    session: Session,
    config: TrainConfig,
    was: dict[str, Any],
    changed: sameness.Changes,
    total: int,
) -> None:
    """Put what has changed into the run's history and into words; the history before it stays."""
    state = session.state
    record = state.record
    record["history"] = list(was["history"])
    if record["license"] == sameness.NOT_STATED:
        record["license"] = was["license"]
    session.changed = changed
    if not changed:
        return
    entry: dict[str, Any] = {
        "step": state.step,
        "changed": {k: list(v) for k, v in changed.items()},
    }
    session.notes = [f"changed from here on: {line}" for line in sameness.told(changed)]
    if state.total != total:
        entry["total"] = [total, state.total]
    if state.total > state.step and any(
        name in changed for name in (*sameness.LENGTH, *sameness.RATES)
    ):
        last = rate_of(was["settings"], min(max(0, state.step - 1), total - 1), total)
        following = rate_of(config.to_json(), state.step, state.total)
        session.notes.append(
            f"the schedule ends at step {state.total:,} (it was {total:,}); the learning rate goes on at "
            f"{following:.3g}, its last was {last:.3g}"
        )
    record["history"].append(entry)


def rate_of(settings: dict[str, Any], step: int, total: int) -> float:
    values = sameness.decided(settings)
    return learning_rate(
        step, total, peak=values["learning_rate"], warmup_fraction=values["warmup_fraction"],
        final_fraction=values["final_lr_fraction"],
    )  # fmt: skip


def finished_bundle(session: Session, out: Path) -> Bundle | None:
    """The bundle of a run that has no step left, if it is sound and of these weights and this data."""
    state = session.state
    if state.step < state.total:
        return None
    found = bundle_of(state, out)
    if found is None:
        return None
    source, labels = found.manifest["provenance"], state.record["data"]["labels"]
    told = source.get("license", sameness.NOT_STATED)
    if state.record["license"] == sameness.NOT_STATED:  # said once, it stays said
        state.record["license"] = told
    relabelled = source["labels"] != labels if "labels" in source else "labels" in session.changed
    return found if told == state.record["license"] and not relabelled else None


def bundle_of(state: State, out: Path) -> Bundle | None:
    """The sound bundle of `out`, if it holds the weights of `state` and was made of its images."""
    try:
        found = bundles.load(out / "bundle")
        source = found.manifest["provenance"]
        digest = source["data"]["digest"]
        same = source["steps"] == state.step and digest == state.record["data"]["digest"]
    except (ArtifactError, KeyError, TypeError):
        return None
    return found if same else None


def keep_bundle(state: State, out: Path) -> str:
    """Move a bundle of the same weights aside, with its exports and probes; a sentence, or nothing."""
    if bundle_of(state, out) is None:
        return ""
    numbers = (n for n in itertools.count(1) if not os.path.lexists(out / f"bundle.old-{n}"))
    target = out / f"bundle.old-{next(numbers)}"
    os.rename(out / "bundle", target)
    return f"the bundle of these weights is written anew; the one before, with its exports, is {target}"


def told_finished(state: State, out: Path) -> Bundle:
    """The bundle that is there, with a line that says so; nothing is written."""
    found = bundles.load(out / "bundle")
    print_line(
        f"{out} is finished (step {state.step:,} of {state.total:,}) and this is the same run: reusing its "
        "bundle. More --epochs continue it, --fresh starts over"
    )
    return found


def restarted() -> bool:
    """Whether torchrun has started these processes again: what --fresh asked for is done by then."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def begin(
    state: State,
    out: Path,
    config: TrainConfig,
    preprocessing: Preprocessing,
    images: Images,
    fresh: bool,
) -> None:
    """The first thing that writes into `out`. `config.json` is what a run began with and stays."""
    moved = move_aside(out) if fresh else None
    if moved is not None:
        print_line(f"the run that was in {out} lies in {moved} now")
    if state.step == 0 or not (out / "config.json").is_file():
        write_json(out / "config.json", config.to_json())
    write_json(out / "history.json", state.record["history"])
    write_json(out / "preprocessing.json", preprocessing.to_json())
    write_json(out / "bad_images.json", [list(entry) for entry in images.bad])


def load_plain(state: State, found: dict[str, Any]) -> None:
    state.method.trained.load_state_dict(found["method"])
    load_optimizer(state.optimizer, found["optimizer"])
    if state.average is not None and found["average"] is not None:
        state.average.load_state_dict(found["average"])


def load_optimizer(optimizer: torch.optim.Optimizer, found: dict[str, Any]) -> None:
    """Its moments. Which kernel steps is this device's affair, and settles where the counters lie."""
    for saved, own in zip(found["param_groups"], optimizer.param_groups, strict=True):
        saved["fused"] = own["fused"]
    optimizer.load_state_dict(found)


def load_gathered(state: State, found: dict[str, Any]) -> None:
    trained = state.method.trained
    sharding.load_whole(trained, found["method"])
    sharding.load_whole_optimizer(trained, state.optimizer, found["optimizer"])
    if state.average is not None and found["average"] is not None:
        average = dict(found["average"])
        state.average.n_averaged.copy_(average.pop("n_averaged"))
        inner = {key.removeprefix("module."): part for key, part in average.items()}
        sharding.load_whole(state.average.module, inner)


def encoder_of(folder: Path) -> tuple[Encoder, Preprocessing]:
    """The encoder of one checkpoint, the averaged one if there is one, and how it wants its images.

    Raises ArtifactError when the checkpoint is damaged or its run folder is not around it.
    """
    run, cpu = folder.resolve().parent.parent, torch.device("cpu")
    try:
        config = TrainConfig.from_json(json.loads((run / "config.json").read_text()))
        preprocessing = Preprocessing.from_json(
            json.loads((run / "preprocessing.json").read_text())
        )
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{folder}: a checkpoint is opened inside its run folder, with config.json and "
            f"preprocessing.json two levels up ({error})."
        ) from error
    found = checkpoint.load(folder, cpu)
    whole = replace(config, sharding="none", compile=False, pretrained=False)
    session = build_session(whole, Ranks(0, 1, cpu))
    state = session.state
    state.method.trained.load_state_dict(found["method"])
    if state.average is not None and found["average"] is not None:
        state.average.load_state_dict(found["average"])
    return session.best().eval(), preprocessing


def print_warning(text: str) -> None:
    Console(stderr=True).print(
        f"[yellow]warning:[/] {marked_lines(text)}", soft_wrap=True, highlight=False
    )


def print_line(text: str) -> None:
    Console(stderr=True).print(marked_lines(text), soft_wrap=True, highlight=False)
