"""`jepack train --dry-run`: what a run will take, from ten real steps, before it starts."""

from __future__ import annotations

import copy
import statistics
import time
import warnings
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from jepack.decoding import Preprocessing
from jepack.encoder import Encoder, EncoderGraph
from jepack.machine import threads
from jepack.measures import Calibration
from jepack.sources import Source
from jepack.terminal import counter
from jepack.tracing import exported, reason_of
from training.commands.saved_bytes import SavedBytes
from training.loop import threads_of
from training.parallel import ranks
from training.run import Prepared, State, available_memory, local, one_step, prepare
from training.settings import TrainConfig
from training.views import Prefetcher

WARM_STEPS = 2  # the first allocates, and its activations are counted
TIMED_STEPS = 10
MARGIN = 0.9  # of the memory: allocators round up, libraries want workspace


@dataclass(frozen=True)
class Estimate:
    """Bytes are of one rank."""

    parameters: int
    memory: dict[str, int]  # what -> bytes
    needed: int  # bytes: what the device measured, on a CPU the sum of `memory`
    available: int  # bytes
    most_images_per_step: int  # over all ranks, with this memory and these settings
    images_per_s: float
    seconds_per_step: float
    views_share: float  # of the step
    steps: int
    hours: float
    images: int  # to train on
    export_problem: str  # why torch.export, and so ONNX, will refuse this encoder; else empty

    @property
    def fits(self) -> bool:
        return self.needed <= MARGIN * self.available

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "fits": self.fits}


def estimate(
    config: TrainConfig,
    data: Source | Path | str,
    *,
    device: str | None = None,
    cache_root: Path | None = None,
) -> Estimate | None:
    """Run a few steps and throw them away; only the decoded cache stays. None on ranks but the first."""
    source = Source.of(data)
    with ranks(device) as here, threads.fixing(config.threads):
        prepared = prepare(config, source, here, cache_root=cache_root)
        config = prepared.config
        session = prepared.start()
        finisher = prepared.finisher()
        saved = SavedBytes(session.state.method.trained)
        took: list[float] = []
        waited: list[float] = []
        view_bytes, chooser = 0, threads.Chooser(torch)
        with (
            Prefetcher(prepared.cutter(), 0, config.workers) as batches,
            counter("dry run") as show,
        ):
            for number, batch in enumerate(batches):
                begin = time.perf_counter()
                with chooser.turn(number=threads_of(number, {}, here)):
                    views = finisher.finish(batch)
                    with saved.hooks if number == 0 else nullcontext():
                        one_step(config, session, views, here)
                if number == 0:
                    view_bytes = sum(
                        part.nbytes
                        for part in (views.global_views, views.local_views)
                        if part is not None
                    )
                if number >= WARM_STEPS:
                    took.append(time.perf_counter() - begin + batch.waited_s)
                    waited.append(batch.waited_s + views.took.seconds())
                if here.first:
                    show(number + 1, WARM_STEPS + TIMED_STEPS)
                if len(took) == TIMED_STEPS:
                    break
        encoder = session.best()
        if not here.first:
            return None
        memory = bytes_of(session.state, saved.peak, view_bytes)
        estimated = put_together(prepared, session.state, memory, took, waited)
        problem = export_problem(encoder, prepared.preprocessing)
        return replace(estimated, export_problem=problem)


def export_problem(encoder: Encoder, preprocessing: Preprocessing) -> str:
    """What torch.export, the first step of ONNX too, says to this encoder; some seconds on a CPU.

    The second step, the translation of each operator, is `jepack export --dry-run`'s.
    """
    whole = copy.deepcopy(encoder).cpu().float()
    width = whole.projector.config.out_features
    graph = EncoderGraph(whole, preprocessing, Calibration(np.zeros(width), np.eye(width))).eval()
    images = torch.zeros(
        2, preprocessing.size, preprocessing.size, preprocessing.channels, dtype=torch.uint8
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported(graph, images)
    except Exception as error:  # torch raises a wide family
        return reason_of(error)
    return ""


def bytes_of(state: State, activations: int, views: int) -> dict[str, int]:
    weights = [local(parameter) for parameter in state.method.trained.parameters()]
    trained = [local(p) for p in state.method.trained.parameters() if p.requires_grad]
    moments = [
        local(value)
        for entry in state.optimizer.state.values()
        for value in entry.values()
        if isinstance(value, Tensor)
    ]
    average = [] if state.average is None else [local(p) for p in state.average.parameters()]
    sizes = {"weights": weights, "gradients": trained, "optimizer": moments, "average": average}
    return {
        **{name: sum(part.nbytes for part in some) for name, some in sizes.items()},
        "views": views,
        "activations": activations,  # SIGReg's among them
    }


def put_together(
    prepared: Prepared, state: State, memory: dict[str, int], took: list[float], waited: list[float]
) -> Estimate:
    config, here, images = prepared.config, prepared.here, len(prepared.split.train)
    needed = sum(memory.values())
    if here.device.type == "cuda":
        needed = max(needed, torch.cuda.max_memory_allocated(here.device))
        available = torch.cuda.mem_get_info(here.device)[1]
    else:
        available = available_memory() // max(1, here.world)
    fixed = sum(memory[name] for name in ("weights", "gradients", "optimizer", "average"))
    each = (needed - fixed) / config.images_per_step
    most = int(max(0.0, MARGIN * available - fixed) / each)
    seconds = statistics.median(took)
    steps = state.total
    if config.minutes:
        steps = min(steps, max(1, int(60 * config.minutes / seconds)))
    return Estimate(
        parameters=sum(p.numel() for p in state.method.trained.parameters()),
        memory=memory, needed=needed, available=available,
        most_images_per_step=most // here.world * here.world,
        images_per_s=config.images_per_step / seconds, seconds_per_step=seconds,
        views_share=min(1.0, statistics.median(waited) / seconds),
        steps=steps, hours=steps * seconds / 3600, images=images, export_problem="",
    )  # fmt: skip


def show(estimate: Estimate) -> None:
    table = Table(title="What this run will take", title_justify="left", box=None)
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row("parameters trained and kept", f"{estimate.parameters:,}")
    for name, size in estimate.memory.items():
        table.add_row(f"memory: {name}", size_text(size))
    mark = "[green]fits[/]" if estimate.fits else "[bold red]does not fit[/]"
    table.add_row(
        "needed per rank", f"{size_text(estimate.needed)} of {size_text(estimate.available)}"
    )
    table.add_row("", mark)
    table.add_row("largest --images-per-step that fits", f"{estimate.most_images_per_step:,}")
    table.add_row(
        "speed", f"{estimate.images_per_s:,.1f} images/s, {estimate.seconds_per_step:.3g} s a step"
    )
    table.add_row("share of the step spent on views", f"{estimate.views_share:.0%}")
    table.add_row("steps", f"{estimate.steps:,} over {estimate.images:,} images")
    table.add_row(
        "time",
        f"{estimate.hours:.1f} h" if estimate.hours >= 1 else f"{estimate.hours * 60:.0f} min",
    )
    table.add_row("torch.export, for ONNX and pt2", "no" if estimate.export_problem else "yes")
    console = Console()
    console.print(table)
    if estimate.export_problem:
        console.print(
            f"This encoder cannot be exported to ONNX or pt2 ({estimate.export_problem}), and `jepack serve` "
            "needs ONNX. TorchScript may work; else choose another --encoder.",
            highlight=False, soft_wrap=True, markup=False,
        )  # fmt: skip
    if not estimate.fits:
        console.print(
            "To make it fit: fewer --images-per-step; --accumulate 4; "
            "--set activation_checkpointing=true; on several GPUs --set sharding=fsdp.",
            highlight=False, soft_wrap=True,
        )  # fmt: skip


def size_text(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
