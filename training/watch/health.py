"""Stops a run that the loss itself shows to be lost: no better than one point, or diverged.

What only an evaluation can show (rank) is in checking.py; non-finite steps are in run/stepping.py. Every rank
sees the same figures, so all stop at the same step.
"""

from __future__ import annotations

import math
import statistics
from collections import deque

from jepack.errors import TrainingError
from jepack.sigreg import collapse_value
from training.run import Session, told
from training.settings import TrainConfig

WINDOW = 20  # steps whose median is judged: one odd batch stops nothing
YOUNG_STEPS = 100  # and twice the warm-up: untrained projections lie at a point, too
# Of SIGReg's value with all projections at the origin. Reached where their standard deviation is below
# about 0.05, and where they lie far from the origin, which is no better.
POINT_SHARE = 0.99
DIVERGED = 10.0  # times the lowest median, ...
UNRELATED = 1.0  # ... and more than if the views of an image had nothing in common


class Health:
    """The losses of the last steps."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self.statistics: deque[float] = deque(maxlen=WINDOW)
        sigreg = config.method == "lejepa" and config.regulariser == "sigreg"
        self.collapsed_at = collapse_value(config.images_per_step) if sigreg else None

    def check(self, session: Session, figures: dict[str, float], step: int | None = None) -> None:
        """With the figures of each step, the newest or that after which `step` were done.

        TrainingError when the run is lost.
        """
        state = session.state
        step = state.step if step is None else step
        if not math.isfinite(figures["loss"]):
            return  # not applied, and counted by the step itself
        self.losses.append(figures["loss"])
        self.statistics.append(figures.get("regulariser", 0.0))
        if len(self.losses) < WINDOW:
            return
        loss = statistics.median(self.losses)
        state.lowest_loss = min(state.lowest_loss, loss)
        if loss > max(DIVERGED * state.lowest_loss, UNRELATED):
            raise TrainingError(
                f"step {step}: the loss has diverged (median of {WINDOW} steps {loss:.4g}, it was "
                f"{state.lowest_loss:.4g}; {told(figures)}). {session.last_good()} Try a lower "
                "--learning-rate, or --set gradient_clip=1."
            )
        young = max(YOUNG_STEPS, 2 * self.config.warmup_fraction * state.total)
        if self.collapsed_at is None or step < young:
            return
        statistic = statistics.median(self.statistics)
        if statistic > POINT_SHARE * self.collapsed_at:
            raise TrainingError(
                f"step {step}: the projections lie at a point, or as far from N(0, I) as one (SIGReg "
                f"{statistic:.2f}, at full collapse {self.collapsed_at:.2f}; {told(figures)}). "
                f"{session.last_good()} Try a larger --sigreg-weight or --learning-rate, or a "
                "warm-up of fewer steps."
            )
