"""Rows of `python -m benchmarks.gpu` beside others, in turns in one process: SIGReg, and a whole step."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import timm
import torch
from torch import Tensor

from benchmarks import contenders
from benchmarks.gpu_place import Figures, Place, outcome
from benchmarks.gpu_steps import Settings, Steps, wait
from benchmarks.sigreg import measure, ours, plain
from jepack.sigreg import random_directions
from jepack.sources import Source
from training.parallel import Ranks
from training.run import prepare
from training.settings import TrainConfig
from training.views import Took, Views

MISSING = "left out: {}"


def sigreg(place: Place) -> Figures:
    """Milliseconds forward and backward of ours, the formula written out, and others' losses.

    Theirs draw their directions inside the call, so ours is there with its draw as well.
    """

    def drawn(z_ND: Tensor, directions_DM: Tensor) -> Tensor:
        return ours(z_ND, random_directions(*directions_DM.shape, step=0, device=z_ND.device))

    found, rows = outcome(), []
    sizes = ((64, 64),) if place.small else ((256, 1024), (1024, 1024), (4096, 1024))
    for images, slices in sizes:
        where = (place.contenders, slices, place.device.type)
        row = measure(
            {
                "ours": ours, "ours with its draw": drawn, "plain": plain,
                "lightly": contenders.lightly(*where),
                "stable-pretraining": contenders.stable_pretraining(*where),
            },
            images, slices, place.device.type, 0.5 if place.small else 3.0,
        )  # fmt: skip
        rows.append(row)
        told = [f"{name} {ms:.3f} ms" for name, ms in row["ms"].items()]
        told += [MISSING.format(reason) for reason in row["not_run"].values()]
        found[f"{images}x{slices}"] = ", ".join(told)
    return found | {"details": rows}


def beside(place: Place, settings: Settings) -> Figures:
    """Our whole step and stable-pretraining's on the same views, which lie on the device already.

    Ours also clips, averages the weights and reads its figures. Theirs is the model and loss as released,
    bfloat16 as ours, with torch's AdamW as it is by default. lightly has losses and heads but no step.
    """
    config, here = settings(place), Ranks(0, 1, place.device)
    prepared = prepare(config, Source.of(place.photos()), here)
    config, session = prepared.config, prepared.start()
    session.state.total *= 100
    views = replace(prepared.finisher().finish(prepared.cutter().cut(0)), took=Took())
    run = Steps(config, session, here)
    turns: dict[str, Callable[[], object]] = {"ours": lambda: run.take(lambda: views)}
    found = outcome()
    try:
        turns["stable-pretraining"] = theirs(place, config, session.state.method.encoder, views)
    except contenders.Missing as error:
        found["stable-pretraining"] = MISSING.format(error)
    took = in_turns(turns, place.device, 0.3 if place.small else 1.5)
    run.rest()
    for name, seconds in took.items():
        found[f"{name} images_per_s"] = config.images_per_step / seconds
    if len(took) > 1:
        found["times_theirs"] = took["stable-pretraining"] / took["ours"]
    return found | {"precision": config.precision, "details": {"encoder": config.encoder}}


def theirs(place: Place, config: TrainConfig, encoder: Any, views: Views) -> Callable[[], None]:
    """A step of stable-pretraining's LeJEPA with the same kind of network. Raises Missing.

    Its class builds ViTs alone, so its backbone is put in place; it asks for local views, so where all are
    global two of them count as such, in a forward pass of their own.
    """
    module = contenders.lejepa_module(place.contenders)
    projector = copy.deepcopy(encoder.projector)
    options: Any = {"projector": projector, "n_slices": config.slices, "drop_path_rate": 0.0}
    name = config.encoder if "vit" in config.encoder else "test_vit"
    model = module.LeJEPA(name, lamb=config.sigreg_weight, **options)
    if name != config.encoder:
        model.backbone = timm.create_model(config.encoder, num_classes=0)
    model.to(place.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
    every = list(views.global_views)
    local = every[2:] if views.local_views is None else list(views.local_views)
    few = every[:2] if views.local_views is None else every

    def step() -> None:
        optimizer.zero_grad()
        bf16 = config.precision == "bf16"
        with torch.autocast(place.device.type, torch.bfloat16, enabled=bf16):
            loss = model(few, local).loss
        loss.backward()
        optimizer.step()

    return step


def in_turns(
    turns: dict[str, Callable[[], object]], device: torch.device, seconds: float, rounds: int = 5
) -> dict[str, float]:
    """Seconds of a call of each: the median over rounds in which they take turns."""
    took: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds + 1):  # the first warms up
        for name, work in turns.items():
            wait(device)
            begin, calls = time.perf_counter(), 0
            while not calls or time.perf_counter() - begin < seconds:
                work()
                calls += 1
            wait(device)
            if number:
                took[name].append((time.perf_counter() - begin) / calls)
    return {name: statistics.median(times) for name, times in took.items()}
