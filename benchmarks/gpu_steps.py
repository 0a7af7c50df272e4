"""Rows of `python -m benchmarks.gpu`: steps plain, compiled, as CUDA graphs, with a second stream."""

from __future__ import annotations

import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_place import Figures, Place, outcome
from jepack.sources import Source
from training.parallel import Ranks, compile_in_place
from training.run import Entry, Session, Unread, judge, prepare, seed_everything, take_step
from training.settings import TrainConfig
from training.views import Batch, Finisher, Prefetcher, Took, Views

# step: as a run takes them. compile: `--set compile=true`. graphs: the same module by torch.compile's mode
# for CUDA graphs. aside: views of the next step are finished on a second stream while the GPU computes.
WAYS = ("step", "compile", "graphs", "aside")
LEFT_OUT = {
    "compile": "C++ takes minutes", "graphs": "they are CUDA's", "aside": "a CPU has no streams",
}  # fmt: skip
Settings = Callable[[Place], TrainConfig]


@dataclass
class Steps:
    """Steps as training/loop.py takes them."""

    config: TrainConfig
    session: Session
    here: Ranks
    unread: Unread = field(default_factory=Unread)
    shares: list[float] = field(default_factory=list)  # of the views in each step that was read

    def take(
        self,
        views_of: Callable[[], Views],
        waited_s: float = 0.0,
        waits: Counter[str] | None = None,
    ) -> float:
        """Seconds of one step, with those it waited for its batch; in `waits` where it waits for the GPU."""
        begin = time.perf_counter()
        with counting(waits):
            seed_everything(self.config, self.session.state.step, self.here)
            views = views_of()
            reading = take_step(self.config, self.session, views, self.here)
        self.unread.wait()
        spent = time.perf_counter() - begin + waited_s
        self.heed(self.unread.put(Entry(reading, spent, waited_s, views.took)))
        return spent

    def rest(self) -> None:
        """Waits for the last one."""
        self.heed(self.unread.rest())

    def heed(self, entries: list[Entry]) -> None:
        for entry in entries:
            judge(self.session, entry.reading)
            self.shares.append((entry.waited_s + entry.views.seconds()) / entry.took_s)

    def per_step_s(self, views: Views, seconds: float) -> float:
        """Seconds of a step whose views lie there already: nothing is cut, copied or lit."""
        views = replace(views, took=Took())
        for _ in range(3):
            self.take(lambda: views)
        took = [self.take(lambda: views)]
        while sum(took) < seconds:
            took.append(self.take(lambda: views))
        self.rest()
        return sum(took) / len(took)


def steps(place: Place, settings: Settings, way: str) -> Figures:
    """Steady speed of training steps with their views, what they wait for, and memory.

    `views_share` is the median of the GPU's own time between the first and the last of a step's views;
    `views_cost` the share of a step that is saved where they lie there already.
    """
    config, device, seconds = settings(place), place.device, 2.0 if place.small else 9.0
    here = Ranks(0, 1, device)
    if way != "step" and device.type != "cuda":
        return {"outcome": f"left out: no GPU ({LEFT_OUT[way]})"}
    if way in ("compile", "graphs") and not compile_in_place(torch.nn.Identity(), device):
        return {"outcome": "left out: no compiler (see the log)"}
    config = replace(config, compile=way == "compile")
    prepared = prepare(config, Source.of(place.photos()), here)
    config, session = prepared.config, prepared.start()
    session.state.total *= 100  # far from the schedule's end
    if way == "graphs":
        method: Any = session.state.method
        compile_in_place(method.embedder, device, "reduce-overhead")
    finisher = prepared.finisher()
    finish = Aside(finisher, device).finish if way == "aside" else finisher.finish
    run, took, waits = Steps(config, session, here), list[float](), Counter[str]()
    first_s, warm = 0.0, 3 if place.small else 10
    with Prefetcher(prepared.cutter(), 0, config.workers) as batches:
        for number, batch in enumerate(batches):
            kept: list[Views] = []

            def views_of(batch: Batch = batch, kept: list[Views] = kept) -> Views:
                kept.append(finish(batch))
                return kept[0]

            counted = waits if number in (warm - 1, warm - 2) else None
            spent = run.take(views_of, batch.waited_s, counted)
            first_s = first_s or spent
            if number >= warm:
                took.append(spent)
            if sum(took) > seconds:
                break
    run.rest()
    step_s, shares = sum(took) / len(took), run.shares[warm:]
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    alone_s = run.per_step_s(kept[0], seconds / 4)
    speed = config.images_per_step / step_s
    found = outcome() | {
        "images_per_s": speed, "ms_per_step": 1000 * step_s,
        "views_share": statistics.median(shares), "views_cost": 1 - alone_s / step_s,
        "waits_per_step": sum(waits.values()) / 2, **update_ms(session, device),
        "precision": config.precision, "steps": len(took), "first_step_s": first_s,
        "images_in_first_minute": round(max(0.0, 60 - first_s) * speed),
    }  # fmt: skip
    if peak is not None:
        found["peak_gib"] = peak
    optimizer = session.state.optimizer
    fused = ", fused" if optimizer.param_groups[0].get("fused") else ""
    about = {"encoder": config.encoder, "optimizer": f"{type(optimizer).__name__}{fused}"}
    return found | {"details": {**about, "waits": dict(waits)}}


def update_ms(session: Session, device: torch.device, times: int = 20) -> Figures:
    """Milliseconds of the optimizer and of the average of the weights, as a step calls them."""
    state = session.state
    works: dict[str, Callable[[], object]] = {"optimizer_ms": state.optimizer.step}
    average = state.average
    if average is not None:
        works["average_ms"] = lambda: average.update_parameters(state.method.encoder)
    found = {}
    for name, work in works.items():
        work()
        wait(device)
        begin = time.perf_counter()
        for _ in range(times):
            work()
        wait(device)
        found[name] = 1000 * (time.perf_counter() - begin) / times
    return found


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Aside:
    """Finishes views on a stream of its own.

    The host is a step ahead of the GPU, so they are finished while the step before is still computed. The
    time between the views' events then is longer than what they cost: read `views_cost`.
    """

    def __init__(self, finisher: Finisher, device: torch.device) -> None:
        self.finisher, self.stream = finisher, torch.cuda.Stream(device)
        self.stream.wait_stream(torch.cuda.current_stream(device))

    def finish(self, batch: Batch) -> Views:
        main = torch.cuda.current_stream(self.stream.device)
        with torch.cuda.stream(self.stream):
            views = self.finisher.finish(batch)
        main.wait_stream(self.stream)
        for tensor in (views.global_views, views.local_views):
            if isinstance(
                tensor, Tensor
            ):  # their memory is not given away before the step has read it
                tensor.record_stream(main)
        return views


class counting:
    """Counts where the host waits for the GPU inside; with None, nothing."""

    def __init__(self, found: Counter[str] | None) -> None:
        self.found = found if torch.cuda.is_available() else None
        self.caught: Any = warnings.catch_warnings(record=True)

    def __enter__(self) -> None:
        if self.found is not None:
            self.said = self.caught.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")

    def __exit__(self, *error: object) -> None:
        if self.found is not None:
            torch.cuda.set_sync_debug_mode("default")
            self.caught.__exit__(*error)
            for one in self.said:
                if "called a synchronizing" in str(one.message):
                    self.found[f"{one.filename}:{one.lineno}"] += 1
