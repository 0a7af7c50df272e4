"""What embeddings are worth: how isotropic they are, how well they find their like. numpy only."""

from jepack.measures.isotropy import Calibration, IsotropyReport

__all__ = [
    "Calibration",
    "IsotropyReport",
]
