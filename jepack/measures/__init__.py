"""What embeddings are worth: how isotropic they are, how well they find their like. numpy only."""

from jepack.measures.isotropy import Calibration, IsotropyReport
from jepack.measures.neighbours import similarities, unit, vote

__all__ = [
    "Calibration",
    "IsotropyReport",
    "similarities",
    "unit",
    "vote",
]
