"""A run's state to its checkpoint and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from jepack.encoder import Encoder
from jepack.errors import ArtifactError, ConfigError
from jepack.names import marked_lines
from jepack.preprocess import Preprocessing
from training import checkpoint, sharding
from training.config import TrainConfig
from training.distributed import Ranks, alone
from training.monitor import Monitor
from training.starting import State, build

FROZEN = (
    "encoder", "method", "size", "images_per_step", "channels", "seed", "projection_dims", "sharding",
    "stream",
)  # fmt: skip


def save(state: State, out: Path, config: TrainConfig, here: Ranks) -> None:
    """Write the newest checkpoint; every rank calls it."""
    content = {
        "step": state.step,
        "total": state.total,
        "lowest_loss": state.lowest_loss,
        "config": config.to_json(),
        **(gathered(state) if state.sharded else plain(state) if here.first else {}),
    }
    alone(here, lambda: checkpoint.save(out, state.step, content, config.keep_checkpoints))
    state.last_checkpoint = checkpoint.folder_of(out, state.step)


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


def resume(state: State, out: Path, config: TrainConfig, here: Ranks, fresh: bool) -> None:
    """Continue from the newest sound checkpoint of `out`, if there is one and `fresh` is not set."""
    say = Monitor(out, 1, 0, active=False) if not here.first else None
    found = (
        None
        if fresh
        else checkpoint.load_newest(out, here.device, say.warn if say else print_warning)
    )
    if found is None:
        return
    for name in FROZEN:
        was, now = found["config"].get(name, getattr(TrainConfig, name)), config.to_json()[name]
        if was != now:
            raise ConfigError(
                f"{out}: this run has {name} = {was}, now {now} is asked. "
                "Choose another --out, or start over with --fresh."
            )
    load = load_gathered if state.sharded else load_plain
    load(state, found)
    state.step, state.total = found["step"], found["total"]
    state.lowest_loss = found.get("lowest_loss", float("inf"))  # older checkpoints lack it
    state.last_checkpoint = checkpoint.folder_of(out, state.step)


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
        look = Preprocessing.from_json(json.loads((run / "preprocessing.json").read_text()))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{folder}: a checkpoint is opened inside its run folder, with config.json and "
            f"preprocessing.json two levels up ({error})."
        ) from error
    found = checkpoint.load(folder, cpu)
    whole = replace(config, sharding="none", compile=False, pretrained=False)
    state = build(whole, Ranks(0, 1, cpu))
    state.method.trained.load_state_dict(found["method"])
    if state.average is not None and found["average"] is not None:
        state.average.load_state_dict(found["average"])
    return state.best().eval(), look


def print_warning(text: str) -> None:
    from rich.console import Console

    Console(stderr=True).print(
        f"[yellow]warning:[/] {marked_lines(text)}", soft_wrap=True, highlight=False
    )
