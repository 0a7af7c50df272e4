"""Training methods behind one small interface. To add one: write its class and a line in METHODS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import nn

from jepack.encoder import Encoder
from jepack.errors import ConfigError
from training.methods.ijepa import IJEPA
from training.methods.lejepa import LeJEPA, LossTerms
from training.parallel import Ranks
from training.settings import TrainConfig
from training.views import Views


class Method(Protocol):
    """What the training loop asks of a method."""

    @property
    def encoder(self) -> Encoder:
        """The encoder that is evaluated and ends in the bundle."""

    @property
    def trained(self) -> nn.Module:
        """Holds everything the optimizer owns (what requires a gradient) and checkpoints keep."""

    @property
    def has_teacher(self) -> bool:
        """Whether `encoder` is a moving average already, so that the loop keeps none of its own."""

    def backward(self, views: Views) -> LossTerms:
        """Add the gradients of the whole step's loss, over all ranks and micro-batches."""

    def after_step(self, progress: float) -> None:
        """Called after each update; `progress` in (0, 1] is the share of the run that is done."""


METHODS: dict[str, Callable[[Encoder, TrainConfig, Ranks], Method]] = {
    "lejepa": LeJEPA,
    "ijepa": IJEPA,
}


def build_method(config: TrainConfig, encoder: Encoder, here: Ranks) -> Method:
    """The method that `config.method` names, around this encoder."""
    if config.method not in METHODS:
        raise ConfigError(f"no method {config.method!r}; there are {', '.join(METHODS)}")
    return METHODS[config.method](encoder, config, here)
