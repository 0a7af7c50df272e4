"""Learning rate (linear warm-up, cosine down) and weight decay (cosine) over a run."""

from __future__ import annotations

import math


def learning_rate(
    step: int, total: int, *, peak: float, warmup_fraction: float, final_fraction: float
) -> float:
    """The rate of step 0..total-1. Never above `peak`; `final_fraction * peak` at the last step."""
    warmup = max(1, round(total * warmup_fraction))
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - 1 - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return peak * (final_fraction + (1 - final_fraction) * cosine)


def weight_decay(step: int, total: int, start: float, end: float | None) -> float:
    """The decay of step 0..total-1, a half cosine from `start` to `end`; None keeps `start`."""
    if end is None:
        return start
    progress = min(1.0, step / max(1, total - 1))
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))
