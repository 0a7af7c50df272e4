"""The steps of a run, and what is due between them: figures, budget, evaluations, checkpoints, stopping."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import torch

from jepack.encoder import Encoder
from jepack.machine import threads
from training.parallel import Ranks, Stop, Votes, alone, broadcast
from training.run import (
    Budget,
    Entry,
    Prepared,
    Session,
    Unread,
    judge,
    save,
    seed_everything,
    take_step,
)
from training.views import Batch, Prefetcher
from training.watch import Checker, Health, Monitor


class Loop:
    """One rank's loop. What it decides is decided on every rank alike; only the first has a `watcher`.

    `stop_after`: a step count, for tests and split jobs. `repeated`: steps that were done before a kill, and
    with how many threads.
    """

    def __init__(
        self, prepared: Prepared, session: Session, out: Path, watcher: Monitor | None, stop: Stop,
        stop_after: int | None, repeated: dict[int, int],
    ) -> None:  # fmt: skip
        self.session, self.state, self.out, self.watcher = session, session.state, out, watcher
        self.config, self.here = prepared.config, prepared.here
        self.stop, self.stop_after, self.repeated = stop, stop_after, repeated
        self.cutter, self.finisher = prepared.cutter(), prepared.finisher()
        self.checker = alone(self.here, lambda: Checker(prepared))
        self.health = Health(self.config)
        images = len(prepared.split.train)
        # Steps between evaluations.
        self.every = max(
            1, round(self.config.evaluate_epochs * images / self.config.images_per_step)
        )
        self.saved = time.monotonic()
        self.budget = Budget(self.config.minutes, prepared.steps, self.state.step)
        self.chooser = threads.Chooser(torch)
        self.threads_by_step: dict[int, int] = {}  # of steps whose figures are not read yet
        self.votes, self.unread = Votes(), Unread()

    def run(self) -> bool:
        """Steps until the end (True) or `stop_after` (False). KeyboardInterrupt, on all, when stopped."""
        state = self.state
        with Prefetcher(self.cutter, state.step, self.config.workers) as batches:
            if state.step == 0:
                best = self.session.best()
                alone(self.here, partial(self.check, best, threads_of(0, self.repeated, self.here)))
            for batch in batches:
                number = self.step(batch)
                self.fit_budget()
                last = state.step >= state.total
                if state.step % self.every == 0 or last:
                    self.heed_rest()
                    alone(self.here, partial(self.check, self.session.best(), number))
                stopping, due = self.votes.take(self.wishes())
                leaving = stopping or state.step == self.stop_after
                if due or leaving or last:
                    self.save()
                self.votes.cast(self.wishes())
                if last:  # no step follows, during which this vote could be counted
                    stopping = self.votes.take(self.wishes())[0] or stopping
                if stopping or (leaving and not last):
                    self.say(f"stopped after step {state.step}; the same command continues it")
                    if stopping:
                        raise KeyboardInterrupt
                    return False
                if last:
                    return True
        raise AssertionError("batches never end")

    def step(self, batch: Batch) -> int:
        """One step. Returns with how many threads."""
        begin, step = time.perf_counter(), self.state.step
        seed_everything(self.config, step, self.here)
        with self.chooser.turn(number=threads_of(step, self.repeated, self.here)) as number:
            views = self.finisher.finish(batch)
            reading = take_step(self.config, self.session, views, self.here)
        self.threads_by_step[reading.step] = number
        self.unread.wait()
        took = time.perf_counter() - begin + batch.waited_s
        for entry in self.unread.put(Entry(reading, took, batch.waited_s, views.took)):
            self.heed(entry)
        return number

    def heed(self, entry: Entry) -> None:
        """The figures of a step: shown, kept, and judged on every rank alike."""
        figures = judge(self.session, entry.reading) | {
            "images_per_s": self.config.images_per_step / entry.took_s,
            # What views cost the step: waiting for them, and finishing them on the device.
            "cut_share": (entry.waited_s + entry.views.seconds()) / entry.took_s,
        }
        number = self.threads_by_step.pop(entry.reading.step)
        if self.watcher is not None:
            self.watcher.step(entry.reading.step, figures | {"threads": number})
        self.health.check(self.session, figures, entry.reading.step + 1)

    def heed_rest(self) -> None:
        for entry in self.unread.rest():
            self.heed(entry)

    def fit_budget(self) -> None:
        """How many steps there are in all, where the run has a budget."""
        if self.budget.due(self.state.step):
            self.state.total, self.budget.next = broadcast(
                self.budget.fit(self.state.total, self.say)
            )
            if self.watcher is not None:
                self.watcher.set_total(self.state.total)

    def check(self, encoder: Encoder, number: int) -> None:
        """With the last step's number of threads, so that its figures repeat where the step does.

        Before the first step with all there are (`number` 0).
        """
        alike = max(1, min(torch.get_num_threads(), threads.cores()))
        number = number or threads.fixed() or alike
        assert self.checker is not None
        assert self.watcher is not None
        with self.budget.evaluation(), self.chooser.turn(number=number), threads.fixing(number):
            self.checker.check(self.session, encoder, self.watcher)

    def wishes(self) -> tuple[bool, bool]:
        """This rank's: to stop, to save (the first one's clock counts)."""
        overdue = time.monotonic() - self.saved > 60 * self.config.checkpoint_minutes
        return self.stop.asked, self.here.first and overdue

    def save(self) -> None:
        self.heed_rest()
        self.saved = time.monotonic()
        save(self.session, self.out, self.config, self.here)

    def say(self, text: str) -> None:
        if self.watcher is not None:
            self.watcher.say(text)


def threads_of(step: int, repeated: dict[int, int], here: Ranks) -> int:
    """Threads that a step must have: those it had before a kill; 0 = a free choice.

    Several ranks wait for each other, so the time of one tells nothing of its threads: they share the cores.
    """
    if here.world == 1 and here.device.type == "cpu":
        return repeated.get(step, 0)
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", here.world))
    return threads.fixed() or max(1, min(torch.get_num_threads(), threads.cores() // ranks_here))
