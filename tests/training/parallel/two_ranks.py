"""What two ranks do together, see test_distributed.

Each scene gives a dictionary, kept as OUT/SCENE-RANK.json.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import timm
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from jepack.errors import DataError, TrainingError
from training.parallel import (
    Ranks,
    Votes,
    alone,
    distributed,
    ranks,
    stopping,
    synchronise_batchnorm,
)

# Families whose BatchNorm holds the activation, and one whose does not.
FAMILIES = (
    "test_efficientnet",
    "mobilenetv3_small_050",
    "regnetx_002",
    "densenet121",
    "test_resnet",
)


def outputs(net: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Features in training mode, the gradients of their mean square, and BatchNorm's running figures."""
    found = net(images)
    found.square().mean().backward()
    grads = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    figures = {
        f"{name}.{kind}": getattr(part, kind)
        for name, part in net.named_modules()
        if isinstance(part, _BatchNorm)
        for kind in ("running_mean", "running_var")
    }
    return found.detach(), grads, figures


def reference(device: torch.device) -> dict[str, Any]:
    """One process on the whole batch."""
    found: dict[str, Any] = {}
    for family in FAMILIES:
        torch.manual_seed(0)
        net = timm.create_model(family, num_classes=0, drop_rate=0.0).double().to(device).train()
        images = torch.randn(8, 3, 32, 32, dtype=torch.float64).to(device)
        found[family] = copy.deepcopy(net), images, outputs(net, images)
    return found


def batchnorm(here: Ranks, expected: dict[str, Any]) -> dict[str, float]:
    """The largest difference to one process, relative to the largest value, for each family."""
    worst = {}
    for family, (net, images, (features, grads, figures)) in expected.items():
        synchronise_batchnorm(net)
        share = slice(4 * here.rank, 4 * here.rank + 4)
        mine, my_grads, my_figures = outputs(net, images[share])
        for grad in my_grads.values():  # as DDP does
            dist.all_reduce(grad)
            grad /= here.world
        pairs = [(mine, features[share])]
        pairs += [(my_grads[name], grads[name]) for name in grads]
        pairs += [(my_figures[name], figures[name]) for name in figures]
        scale = [max(float(b.abs().max()), 1e-6) for _, b in pairs]
        worst[family] = max(
            float((a - b).abs().max()) / s for (a, b), s in zip(pairs, scale, strict=True)
        )
    return worst


def lone_work(here: Ranks) -> dict[str, Any]:
    """Work on rank 0 that ends only when it has been asked after five times."""
    answers = []
    plain = distributed.exchange

    def counted(busy: bool, code: int) -> tuple[bool, int]:
        answers.append(busy)
        return plain(busy, code)

    distributed.exchange = counted
    try:
        found = alone(here, lambda: wait_for(lambda: len(answers) >= 5))
    finally:
        distributed.exchange = plain
    return {"found": found, "answers": len(answers)}


def wait_for(condition: Any) -> str:
    while not condition():
        time.sleep(0.01)
    return "done"


def failing_work(here: Ranks) -> dict[str, Any]:
    def fail() -> None:
        raise DataError("no images")

    try:
        alone(here, fail)
    except (DataError, TrainingError) as error:
        return {"error": type(error).__name__, "text": str(error), "exit_code": error.exit_code}
    return {}


def stopped_work(here: Ranks) -> dict[str, Any]:
    """SIGTERM to rank 1 while rank 0 works without an end."""
    plain, answers = distributed.exchange, []

    def counted(busy: bool, code: int) -> tuple[bool, int]:
        answers.append(busy)
        if (
            not here.first and answers.count(False) == 3
        ):  # it waits by now, however slow the machine
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(busy, code)

    distributed.exchange = counted
    try:
        with stopping.stop_signals():
            try:
                alone(here, lambda: wait_for(lambda: False))
            except KeyboardInterrupt:
                return {"stopped": True}
    finally:
        distributed.exchange = plain
    return {"stopped": False}


def noted_stop(here: Ranks) -> dict[str, Any]:
    """The same during steps: rank 0's work ends first, and both hear of it in the next vote."""
    votes, heard = Votes(), []
    with stopping.stop_signals() as stop, stop.after_a_step():
        if not here.first:
            os.kill(os.getpid(), signal.SIGTERM)
        done = alone(here, lambda: "evaluated")
        for _ in range(3):
            heard.append(votes.take((stop.asked, here.first)))
            votes.cast((stop.asked, here.first))
        votes.take(())
    return {"done": done, "heard": heard}


def play(device: str, out: Path) -> None:
    """The part of one of them."""
    expected = reference(torch.device(device))
    scenes = {
        "lone_work": lone_work, "failing_work": failing_work, "stopped_work": stopped_work,
        "noted_stop": noted_stop, "batchnorm": lambda here: batchnorm(here, expected),
    }  # fmt: skip
    distributed.ANSWER_S = 0.05
    with ranks(device) as here:
        for name, scene in scenes.items():
            (out / f"{name}-{here.rank}.json").write_text(json.dumps(scene(here)))
            dist.barrier()
