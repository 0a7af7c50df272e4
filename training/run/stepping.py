"""One step: loss, gradient, update; and its figures, which a GPU hands over while the next one runs.

On a CPU the step looks at its own figures. On a GPU looking would wait until it has done everything that
is queued, so a non-finite gradient is held back on the device, and figures are read one step late.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jepack.errors import TrainingError
from training.parallel import Ranks
from training.run import gentle
from training.run.schedule import learning_rate, weight_decay
from training.run.state import Session, State, told
from training.settings import TrainConfig
from training.views import Took

MAX_BAD_STEPS = 3


@dataclass
class Reading:
    """What a step found. `ready` comes when the device has written `values`; None: they are there."""

    step: int  # counted from 0
    learning_rate: float
    names: tuple[str, ...]
    values: Tensor  # [names], on the CPU
    ready: Any = None

    def figures(self) -> dict[str, float]:
        """Waits for the step if it has not ended."""
        if self.ready is not None:
            self.ready.synchronize()
        figures = dict(zip(self.names, self.values.tolist(), strict=True))
        norm = figures.pop("gradient_norm")
        return figures | {"learning_rate": self.learning_rate, "gradient_norm": norm}


def take_step(config: TrainConfig, session: Session, views: Any, here: Ranks) -> Reading:
    """A non-finite gradient is never applied, and leaves BatchNorm's running figures alone, too."""
    state = session.state
    method, optimizer = state.method, state.optimizer
    rate = learning_rate(
        state.step, state.total, peak=config.learning_rate,
        warmup_fraction=config.warmup_fraction, final_fraction=config.final_lr_fraction,
    )  # fmt: skip
    decay = weight_decay(state.step, state.total, config.weight_decay, config.weight_decay_end)
    slower = gentle.backbone_share(config, state.step, state.total)
    for number, group in enumerate(optimizer.param_groups):
        group["lr"] = rate * slower if group.get(gentle.OF_BACKBONE) else rate
        if number % 2 == 0:  # every second group is of what is not decayed
            group["weight_decay"] = decay
    optimizer.zero_grad(set_to_none=True)
    method.trained.train()
    if config.frozen_norms:
        gentle.hold_norms(method.encoder.backbone)
    session.running.keep()
    terms = method.backward(views).tensors()
    limit = config.gradient_clip or float("inf")
    norm = whole(nn.utils.clip_grad_norm_(method.trained.parameters(), limit))
    names, values = (*terms, "gradient_norm"), in_one([*terms.values(), norm])
    if holds_back(optimizer):
        applied = (values[names.index("loss")] + norm).isfinite()
        optimizer.found_inf = (~applied).float()  # type: ignore[attr-defined]  # as GradScaler does
        optimizer.step()
        session.running.settle(applied)
        follow_weights(state)  # these did not move where the step was not applied
        reading = on_its_way(state.step, rate, names, values)
    else:
        reading = Reading(state.step, rate, names, values.cpu())
        finite = bool((reading.values[names.index("loss")] + reading.values[-1]).isfinite())
        session.running.settle(finite)
        if finite:
            optimizer.step()
            follow_weights(state)
    state.step += 1
    return reading


def one_step(config: TrainConfig, session: Session, views: Any, here: Ranks) -> dict[str, float]:
    """A step and its figures, waited for."""
    return judge(session, take_step(config, session, views, here))


def follow_weights(state: State) -> None:
    """The method's teacher and the average."""
    state.method.after_step((state.step + 1) / state.total)
    if state.average is not None:
        state.average.update_parameters(state.method.encoder)


def judge(session: Session, reading: Reading) -> dict[str, float]:
    """The figures of a step; TrainingError when it is the third in a row that was not applied."""
    figures = reading.figures()
    norm = figures["gradient_norm"]
    session.losses = {
        name: value
        for name, value in figures.items()
        if name not in ("learning_rate", "gradient_norm")
    }
    if torch.tensor([figures["loss"], norm]).isfinite().all():
        session.bad_steps = 0
        return figures
    session.bad_steps += 1
    if session.bad_steps >= MAX_BAD_STEPS:
        raise TrainingError(
            f"step {reading.step}: {MAX_BAD_STEPS} steps in a row gave non-finite values "
            f"({told(figures)}, gradient norm {norm:g}); none was applied. "
            f"{session.last_good()} Try --precision fp32, a lower --learning-rate, or "
            "--set gradient_clip=1."
        )
    return figures


def holds_back(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer's own kernel can leave a step out, so that nobody needs to look at it."""
    return all(group.get("fused") for group in optimizer.param_groups)


def on_its_way(step: int, rate: float, names: tuple[str, ...], values: Tensor) -> Reading:
    """The figures, copied when the device has got so far."""
    there = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    there.copy_(values, non_blocking=True)
    ready = torch.cuda.Event()
    ready.record()
    return Reading(step, rate, names, there, ready)


def in_one(scalars: list[Tensor]) -> Tensor:
    """[n] of scalars, in the widest of their types: float64 holds every float32."""
    widest = torch.float64 if any(x.dtype == torch.float64 for x in scalars) else torch.float32
    return torch.stack([scalar.detach().to(widest) for scalar in scalars])


def whole(value: Any) -> Tensor:
    """A scalar tensor, sharded or not."""
    return getattr(value, "full_tensor", lambda: value)()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Entry:
    """A step whose figures are to be shown."""

    reading: Reading
    took_s: float  # from one step to the next, views included
    waited_s: float  # of these for views
    views: Took


class Unread:
    """Steps whose figures may still be on their way: none on a CPU, one on a GPU."""

    def __init__(self) -> None:
        self.held: Entry | None = None

    def wait(self) -> None:
        """Until the step before has ended, so that the device is never more than a step behind."""
        if self.held is not None:
            self.held.reading.figures()

    def put(self, entry: Entry) -> list[Entry]:
        """Keep a step; those that can be read now."""
        before = self.rest()
        if entry.reading.ready is None:
            return [*before, entry]
        self.held = entry
        return before

    def rest(self) -> list[Entry]:
        """Those that were kept; reading them waits."""
        kept = [] if self.held is None else [self.held]
        self.held = None
        return kept
