"""Small models on stored vectors: fitting one, judging it, asking for labels, saying "unsure". No torch."""

from app.probing.asking import ask
from app.probing.conformal import UNSURE, named, threshold
from app.probing.heads import Head, fit
from app.probing.judging import Judgement, folds_of, judge, usable

__all__ = [
    "UNSURE",
    "Head",
    "Judgement",
    "ask",
    "fit",
    "folds_of",
    "judge",
    "named",
    "threshold",
    "usable",
]
