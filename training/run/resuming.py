"""Continuing a run from its newest checkpoint, and refusing to continue another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jepack import bundle as bundles
from jepack.errors import ArtifactError, ConfigError
from training.parallel import Ranks
from training.run import checkpoint, sameness
from training.run.finished import finished_bundle
from training.run.schedule import learning_rate
from training.run.state import Session
from training.run.telling import print_warning
from training.run.weights import load_gathered, load_plain
from training.settings import TrainConfig


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
    newest = checkpoint.load_newest(out, here.device, warn)
    if newest is None:
        compare_with_bundle(session, out)
        return
    was = sameness.earlier(out, newest)
    changed = sameness.changes(was, state.record)
    step, total = newest["step"], newest["total"]
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
    load(state, newest)
    state.lowest_loss = newest.get("lowest_loss", float("inf"))  # older checkpoints lack it
    session.last_checkpoint = checkpoint.folder_of(out, step)
    state.step, state.total = step, total
    note_changes(session, config, was, changed, newest["total"])


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
    if finished_bundle(session, out) is None:  # nothing to write another with
        state.step, state.total = 0, before
        raise ConfigError(
            f"{out} has a bundle under another licence, or of other weights than keep_start asks for, and no "
            "checkpoints to write it again from. Leave both as they were, or choose another --out."
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
