"""The end of a run: its weights beside those it started from, and the bundle of those that are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jepack.bundle import Bundle
from jepack.encoder import Encoder
from jepack.errors import JepackError
from jepack.files import write_json
from jepack.names import marked
from training.bundling.runs import write, write_start
from training.run import BELOW_START, Prepared, Session, put_aside, sameness
from training.watch import BELOW, Comparison, Monitor, compare


def conclude(
    prepared: Prepared, session: Session, best: Encoder, out: Path, watcher: Monitor,
    origin: dict[str, Any],
) -> Bundle:  # fmt: skip
    """Write `out`/bundle. The start's weights go there with `keep_start` where the run ended below them;
    its own are in `out`/below-start then."""
    comparison = compared(prepared, session, best, watcher)
    if (out / BELOW_START).exists():  # of fewer steps, or of another `keep_start`
        put_aside(out / BELOW_START)
    if comparison is not None:
        kept = comparison.verdict == BELOW and prepared.config.keep_start
        origin = origin | {"start": origin["start"] | {"compared": comparison.to_json()}}
        write_json(out / "start.json", origin["start"] | {"kept": kept})
        if kept:
            return keep(prepared, best, out, watcher, origin)
    watcher.say("calibrating and writing the bundle ...")
    made = write(out / "bundle", best, prepared, origin, out / "curves.png")
    if comparison is not None and comparison.verdict == BELOW:
        watcher.warn(
            f"{out / 'bundle'} holds the run's own weights, which are below its start's; the same command "
            "with --set keep_start=true writes a bundle of the start's there"
        )
    return made


def compared(
    prepared: Prepared, session: Session, best: Encoder, watcher: Monitor
) -> Comparison | None:
    """Told; None for a run from random weights, and where its start is no longer what it was."""
    config = prepared.config
    if config.init is None and not config.pretrained:
        return None
    watcher.say("comparing it with its start ...")
    try:
        changed = session.state.record["init"] != sameness.contents_of_init(config)
        start = None if changed else prepared.its_start()
    except (JepackError, OSError) as error:
        watcher.warn(f"not compared with its start, which cannot be read: {error}")
        return None
    if start is None:
        watcher.warn(f"not compared with its start: {config.init} is another bundle now")
        return None
    comparison = compare(start, best, prepared)
    tell = watcher.warn if comparison.verdict == BELOW else lambda text: watcher.say(marked(text))
    tell(comparison.told())
    return comparison


def keep(
    prepared: Prepared, best: Encoder, out: Path, watcher: Monitor, origin: dict[str, Any]
) -> Bundle:
    """The run's own bundle beside that of its start, which is written last: a run that has it is finished."""
    watcher.say("calibrating and writing two bundles, the run's and its start's ...")
    write(out / BELOW_START, best, prepared, origin, out / "curves.png")
    origin = origin | {"start": origin["start"] | {"kept": True}}
    made = write_start(out / "bundle", prepared.its_start(), prepared, origin)
    watcher.warn(
        f"{out / 'bundle'} holds the weights of the run's start ({origin['start']['name']}), since it ended "
        f"below them. Its own are in {out / BELOW_START}, a bundle like any other, and in its checkpoints; "
        f"the same command with --set keep_start=false makes them {out / 'bundle'}"
    )
    return made
