"""`--fresh`: a new run owns its folder, and the one that was there keeps everything under another name."""

from __future__ import annotations

import errno
import glob
import os
import re
from pathlib import Path

from jepack.disk import disk_error
from jepack.errors import ConfigError

# What a run writes. Anything else in its folder (an index, notes) is somebody's own, and stays.
OWNED = (
    "checkpoints", "config.json", "history.json", "preprocessing.json", "provenance.json",
    "bad_images.json", "log.jsonl", "tensorboard", "curves.png", "bundle", "below-start", "start.json",
    "wandb",
)  # fmt: skip


def refuse_inner_start(run: Path, init: str | None) -> None:
    """ConfigError when the bundle of `init` is what a run in this folder moves aside or writes over."""
    if init is None:
        return
    here, start = run.resolve(), Path(init)
    for place in (start.resolve(), start.absolute().parent.resolve() / start.name):
        inner = place.relative_to(here).parts[:1] if place.is_relative_to(here) else ("",)
        if not inner or inner[0] in OWNED or here.is_relative_to(place):
            raise ConfigError(
                f"--init {init} and --out {run} are one place: this run would move the bundle that it starts "
                "from, or write over it. Choose another --out; nothing was changed"
            )


def move_aside(run: Path) -> Path | None:
    """Move what a run wrote to `run`.old-N beside it; None when there is nothing.

    Where the place beside it cannot take it (another disk, no right to write), to old-N inside it.
    The checkpoints go last, so that after a kill a second call finds the run as it was, or nothing of it.
    """
    here = run.resolve()
    there = sorted(
        (here / name for name in OWNED if os.path.lexists(here / name)),
        key=lambda path: path.name == "checkpoints",
    )
    if not there:
        return None
    number = times_moved(run) + 1
    places = here.with_name(f"{here.name}.old-{number}"), here / f"old-{number}"
    for target in places:
        try:
            target.mkdir()
            for path in there:
                os.rename(path, target / path.name)
            return target
        except OSError as error:
            elsewhere = error.errno in (errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS)
            if target == places[-1] or not elsewhere:
                raise disk_error(error, run) from error
            remove_empty(target)
    return None


def times_moved(run: Path) -> int:
    """The largest N of `run`.old-N and `run`/old-N; 0 when no run was moved."""
    here = run.resolve()
    beside = here.parent.glob(f"{glob.escape(here.name)}.old-*") if here.parent.is_dir() else []
    numbers = [
        int(match.group(1))
        for path in [*beside, *here.glob("old-*")]
        if (match := re.search(r"old-(\d+)$", path.name))
    ]
    return max(numbers, default=0)


def remove_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
