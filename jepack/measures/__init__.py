"""What embeddings are worth: how isotropic they are, how well they find their like,
and whether images still look like those kept aside (`fit_null`, `Null`, `Watcher`). numpy only."""

from jepack.measures.comparison import Comparison, compare
from jepack.measures.directions import Breadth, breadth
from jepack.measures.drift import DriftReport, Sample, Watcher, Window, samples
from jepack.measures.isotropy import Calibration, IsotropyReport
from jepack.measures.neighbours import similarities, unit, vote
from jepack.measures.null import FAULTS, Null
from jepack.measures.replay import MINIMUM, fit_null, null_where_possible

__all__ = [
    "FAULTS",
    "MINIMUM",
    "Breadth",
    "Calibration",
    "Comparison",
    "DriftReport",
    "IsotropyReport",
    "Null",
    "Sample",
    "Watcher",
    "Window",
    "breadth",
    "compare",
    "fit_null",
    "null_where_possible",
    "samples",
    "similarities",
    "unit",
    "vote",
]
