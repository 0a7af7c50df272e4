"""What a run is at a step: what its checkpoint holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from jepack.encoder import Encoder
from training.methods import Method
from training.parallel import sharding
from training.run.averaging import Average
from training.run.running import RunningFigures


@dataclass
class State:
    """What changes while training: what a checkpoint holds, and nothing else."""

    method: Method
    optimizer: torch.optim.Optimizer
    average: Average | None
    step: int = 0  # steps done
    total: int = 0
    lowest_loss: float = float("inf")  # median over some steps; divergence is measured against it
    record: dict[str, Any] = field(default_factory=dict)  # what makes it this run, see sameness.py


@dataclass
class Session:
    """A state, and what this process keeps beside it until it ends."""

    state: State
    twin: Encoder | None = None  # where weights are sharded: a whole encoder, on rank 0 only
    sharded: bool = False
    last_checkpoint: Path | None = None
    bad_steps: int = 0  # not applied, in a row
    losses: dict[str, float] = field(default_factory=dict)  # of the last step, by part
    changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # since the checkpoint
    notes: list[str] = field(default_factory=list)  # the same in words
    running: RunningFigures = field(init=False)  # as they were before a step

    def __post_init__(self) -> None:
        self.running = RunningFigures(self.state.method.trained)

    def last_good(self) -> str:
        if self.last_checkpoint is None:
            return "There is no checkpoint yet."
        return f"The last good checkpoint is {self.last_checkpoint}."

    def best(self) -> Encoder:
        """The encoder to evaluate and keep: the EMA copy when there is one.

        Every rank calls it, since shards are gathered; only rank 0's is whole.
        """
        average = self.state.average
        chosen = average.module if average is not None else self.state.method.encoder
        assert isinstance(chosen, Encoder)
        if not self.sharded:
            return chosen
        weights = sharding.whole(chosen)
        if self.twin is None:
            return chosen
        self.twin.load_state_dict(weights)
        return self.twin


def told(figures: dict[str, float]) -> str:
    """The parts of a loss in words."""
    return ", ".join(
        f"{name} {figures[name]:.4g}"
        for name in ("loss", "prediction", "regulariser")
        if name in figures
    )
