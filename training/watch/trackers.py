"""Weights & Biases and trackio beside TensorBoard: `--log wandb`, `--log trackio`. Each only when asked for.

A resumed run continues the same entry there. What the library needs (account, host, offline mode) it
takes from its own settings: WANDB_MODE, WANDB_PROJECT, TRACKIO_DIR, ...
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from jepack.errors import ConfigError, DependencyError
from training.run import times_moved


class Tracker(Protocol):
    """Where figures of a run go."""

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Figures by name, such as train/loss or evaluation/knn, after `step` steps."""

    def close(self) -> None:
        """The process ends; a run that was stopped may be continued later."""


class Wandb:
    def __init__(self, run: Path, config: dict[str, Any]) -> None:
        import wandb

        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "jepack"),
            name=run.name,
            id=identity(run),
            resume="allow",
            dir=run,
            config=config,
        )
        # Steps of their own: after a resume some come twice, which wandb's counter refuses.
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def log(self, step: int, figures: dict[str, float]) -> None:
        self.run.log({"step": step, **figures})

    def close(self) -> None:
        self.run.finish()


class Trackio:
    def __init__(self, run: Path, config: dict[str, Any]) -> None:
        import trackio

        self.library: Any = trackio
        name = f"{run.name}-{identity(run)[:6]}"
        project = os.environ.get("TRACKIO_PROJECT", "jepack")
        trackio.init(project=project, name=name, config=config, resume="allow", embed=False)

    def log(self, step: int, figures: dict[str, float]) -> None:
        self.library.log(figures, step=step)

    def close(self) -> None:
        self.library.finish()


TRACKERS: dict[str, Callable[[Path, dict[str, Any]], Tracker]] = {
    "wandb": Wandb,
    "trackio": Trackio,
}


def check(names: Sequence[str]) -> None:
    """Before anything is computed: ConfigError for a name that is not known, DependencyError for a library
    that is missing."""
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"--log takes {' or '.join(TRACKERS)}, found {name!r}")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise DependencyError(
                f"--log {name} needs {error.name}, which is not installed. "
                f"Install it: pip install 'jepack[{name}]'"
            ) from error


def open_trackers(names: Sequence[str], run: Path, config: dict[str, Any]) -> list[Tracker]:
    """The trackers of a run. Raises DependencyError when a library is missing."""
    check(names)
    if names:
        run.mkdir(parents=True, exist_ok=True)
    return [TRACKERS[name](run, config) for name in dict.fromkeys(names)]


def identity(run: Path) -> str:
    """The same for the same run folder on the same machine, so that a resumed run is found again.

    Another after --fresh, which moved the run before it aside.
    """
    moved = times_moved(run)
    place = f"{run.absolute()}#{moved}" if moved else run.absolute()
    return hashlib.sha256(os.fsencode(place)).hexdigest()[:16]
