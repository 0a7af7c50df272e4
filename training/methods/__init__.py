"""Training methods behind one small interface: LeJEPA, I-JEPA, and what keeps projections apart."""

from training.methods.fitting import building, check_encoder, trouble
from training.methods.lejepa import (
    Embedder,
    LeJEPA,
    batch_norms_with,
    frozen_statistics,
    lejepa_loss,
    projections,
)
from training.methods.registry import Method
from training.methods.regularisers import FLOORS

__all__ = [
    "FLOORS",
    "Embedder",
    "LeJEPA",
    "Method",
    "batch_norms_with",
    "building",
    "check_encoder",
    "frozen_statistics",
    "lejepa_loss",
    "projections",
    "trouble",
]
