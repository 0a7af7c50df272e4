"""The wall-clock budget of a run: it ends in time, however the machine's speed swings."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from training.run import Budget


def run(
    minutes: float, most: int, seconds: Callable[[float, int], float], every: int = 16
) -> tuple[float, int, list[str]]:
    """(seconds, steps, what was said) of a run whose step at a time takes `seconds`; no real time passes."""
    now, said = 0.0, []
    budget = Budget(minutes, most, 0, clock=lambda: now)
    step, total = 0, most
    while step < total:
        now += seconds(now, step)
        step += 1
        if budget.due(step):
            total, budget.next = budget.fit(total, said.append)
        if step % every == 0 or step >= total:
            with budget.evaluation():
                now += 3 * seconds(now, step)
    return now, step, said


SWING = random.Random(0)
SPEEDS: dict[str, Callable[[float, int], float]] = {
    "even": lambda now, step: 0.5,
    "slow": lambda now, step: 16.0,
    "slow at first": lambda now, step: 30.0 if step == 0 else 0.5,
    "busy later": lambda now, step: 0.5 if now < 100 else 6.0,
    "quiet later": lambda now, step: 6.0 if now < 100 else 0.5,
    "swinging": lambda now, step: SWING.choice([0.5, 0.5, 0.5, 9.0]),
}


@pytest.mark.parametrize("speed", SPEEDS)
def test_the_budget_holds_within_ten_percent(speed: str) -> None:
    took, steps, _ = run(6, 100_000, SPEEDS[speed])
    assert 0.85 * 360 < took < 1.1 * 360
    assert steps > 15


def test_a_run_that_fits_is_left_alone() -> None:
    took, steps, said = run(6, 300, SPEEDS["even"])
    assert (steps, said) == (300, [])
    assert took < 360


def test_steps_that_became_fewer_come_back_when_the_machine_is_quiet_again() -> None:
    _, steps, said = run(6, 300, SPEEDS["quiet later"])
    assert steps == 300
    assert len(said) >= 2


def test_without_a_budget_nothing_is_due() -> None:
    budget = Budget(None, 10, 0)
    assert not any(budget.due(step) for step in range(1, 100))
