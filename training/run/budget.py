"""A run's wall-clock budget: how many steps fit, and the moment to end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FIRST_STEPS = 3  # the first of all is slower and not counted
EARLY = 0.1  # of the budget: until then fewer than EVERY_STEPS steps say too little
EVERY_STEPS = 8  # at most; sooner where steps are long
EVERY_SHARE = 0.04  # of the budget
WINDOW = (
    24  # steps: what a step takes is their mean, with the evaluations and checkpoints among them
)
SMALL = 0.02  # of the total: not worth a change of the schedule
TOLD = 0.1


class Budget:
    """Fits the steps into `minutes` from now, evaluations and checkpoints between them included.

    The learning rate's schedule follows `fit`, so that it ends where the run ends. `minutes` None: no limit.
    `most` steps at most, `step` of them are done.
    """

    def __init__(
        self,
        minutes: float | None,
        most: int,
        step: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit_s = 0.0 if minutes is None else 60 * minutes
        self.minutes, self.most, self.clock = minutes, most, clock
        self.started = clock()
        self.marks: deque[tuple[int, float]] = deque(maxlen=WINDOW + 1)  # steps done, when
        self.next = step + FIRST_STEPS
        self.told = most
        self.ending_s: float | None = None  # an evaluation, such as comes after the last step

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        started = self.clock()
        yield
        self.ending_s = self.clock() - started

    def due(self, step: int) -> bool:
        """Call after every step; whether `fit` should be. The same on every rank of a run."""
        self.marks.append((step, self.clock()))
        return bool(self.limit_s) and step >= self.next

    def fit(self, total: int, say: Callable[[str], None]) -> tuple[int, int]:
        """(steps in all, the step at which to call again), from the time that recent steps took."""
        (first, since), (step, now) = self.marks[0], self.marks[-1]
        each = (now - since) / (step - first)
        spent = now - self.started
        again = step + max(1, min(EVERY_STEPS, int(EVERY_SHARE * self.limit_s / each)))
        if step - first < EVERY_STEPS and spent < EARLY * self.limit_s:
            return total, again
        left = self.limit_s - spent - (each if self.ending_s is None else self.ending_s)
        fits = min(self.most, step + max(0, round(left / each)))
        if abs(fits - total) <= SMALL * total and fits > again:
            fits = total
        if abs(fits - self.told) > TOLD * self.told:
            self.told = fits
            say(
                f"{each:.2f} s per step: {fits} of {self.most} steps fit into {self.minutes:g} minutes"
            )
        return fits, again
