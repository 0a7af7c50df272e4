"""The weights and moments of a state, as checkpoints hold them; and the encoder of one checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from jepack.decoding import Preprocessing
from jepack.encoder import Encoder
from jepack.errors import ArtifactError
from training.parallel import Ranks, sharding
from training.run import checkpoint
from training.run.starting import build_session
from training.run.state import State
from training.settings import TrainConfig


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


def load_plain(state: State, content: dict[str, Any]) -> None:
    state.method.trained.load_state_dict(content["method"])
    load_optimizer(state.optimizer, content["optimizer"])
    if state.average is not None and content["average"] is not None:
        state.average.load_state_dict(content["average"])


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Its moments. Which kernel steps is this device's affair, and settles where the counters lie."""
    for group, own in zip(saved["param_groups"], optimizer.param_groups, strict=True):
        group["fused"] = own["fused"]
    optimizer.load_state_dict(saved)


def load_gathered(state: State, content: dict[str, Any]) -> None:
    trained = state.method.trained
    sharding.load_whole(trained, content["method"])
    sharding.load_whole_optimizer(trained, state.optimizer, content["optimizer"])
    if state.average is not None and content["average"] is not None:
        average = dict(content["average"])
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
    content = checkpoint.load(folder, cpu)
    whole = replace(config, sharding="none", compile=False, pretrained=False)
    session = build_session(whole, Ranks(0, 1, cpu))
    state = session.state
    state.method.trained.load_state_dict(content["method"])
    if state.average is not None and content["average"] is not None:
        state.average.load_state_dict(content["average"])
    return session.best().eval(), preprocessing
