"""Small models on stored vectors: fitting one, judging it, asking for labels, saying "unsure", keeping it.

No torch; needs scikit-learn.
"""

from jepack.probing.asking import ask
from jepack.probing.conformal import UNSURE, named, threshold
from jepack.probing.heads import Head, fit, standard_of
from jepack.probing.holding import Fitted, fit_some
from jepack.probing.judging import Judgement, folds_of, judge, usable
from jepack.probing.keeping import as_probe, keep

__all__ = [
    "UNSURE",
    "Fitted",
    "Head",
    "Judgement",
    "as_probe",
    "ask",
    "fit",
    "fit_some",
    "folds_of",
    "judge",
    "keep",
    "named",
    "standard_of",
    "threshold",
    "usable",
]
