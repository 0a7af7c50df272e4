"""SIGReg: how far projections are from N(0, I), sliced and differentiable. For your own loop too."""

from jepack.sigreg.statistic import (
    KNOTS,
    NULL_MEAN,
    all_reduce_sum,
    collapse_value,
    random_directions,
    sigreg,
    world_size,
)

__all__ = [
    "KNOTS",
    "NULL_MEAN",
    "all_reduce_sum",
    "collapse_value",
    "random_directions",
    "sigreg",
    "world_size",
]
