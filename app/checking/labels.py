"""Labels that an image's like contradict.

Two witnesses must agree. Its neighbours, copies left aside, vote for another label (leave one out). And
confident learning: a linear probe, cross-validated so that no copy of an image is learned from when it is
judged, gives another label more than is usual for images that truly bear it (Northcutt et al.,
arXiv:1911.00068, as cleanlab counts it).

N images, L neighbours, C classes.
"""

from __future__ import annotations

import warnings

import numpy as np

from app.checking.material import Floats, Material, Progress, Whole
from app.checking.report import Case, Finding
from jepack.errors import DependencyError
from jepack.measures.neighbours import TEMPERATURE

FOLDS = 5
MOST = 10_000  # images that one fold learns from
STRENGTH = 0.01  # of the probe, on standardised vectors
VOTERS = 10
LEAST = 10  # images of a label that is judged
ODDS = 5  # times as likely as the given label must the other be, to both witnesses together


def find(material: Material, group_N: Whole, on_progress: Progress) -> Finding:
    codes = material.codes_N
    counts = np.bincount(codes[codes >= 0], minlength=len(material.classes) + 1)
    kept = np.flatnonzero((codes >= 0) & (counts[codes] >= LEAST))
    classes = np.unique(codes[kept])
    finding = Finding(kind="labels", title="Suspect labels", method=METHOD, measure=MEASURE)
    if len(classes) < 2:
        why = f"It needs two labels of {LEAST} images or more."
        return Finding(**{**vars(finding), "skipped": why, "fault": False})
    own = np.searchsorted(classes, codes[kept])
    believed = probabilities(material.vectors_ND[kept], own, group_N[kept], on_progress)
    contradicted = confident_issues(own, believed)
    votes = neighbours_vote(material, group_N)[kept][:, classes]
    votes = votes / np.maximum(votes.sum(axis=1, keepdims=True), 1e-12)
    both = (believed + votes) / 2
    better = both.argmax(axis=1)
    sure = both[np.arange(len(own)), better] >= ODDS * both[np.arange(len(own)), own]
    suspect = contradicted & (votes.argmax(axis=1) != own) & sure
    cases = []
    for at in np.flatnonzero(suspect):
        name, new = material.ids[kept[at]], material.classes[classes[better[at]]]
        given = material.classes[classes[own[at]]]
        cases.append(
            Case(
                ids=(name,),
                why=why_of(given, new, both[at], own[at], better[at]),
                figure=float(both[at, own[at]]),
                label=new,
            )
        )
    return Finding(**{**vars(finding), "cases": tuple(sorted(cases, key=lambda case: case.figure))})


METHOD = (
    "Both the nearest images and a linear probe that has not seen this one, nor a copy of it, say "
    "another label, the "
    "probe more surely than is usual for that label (confident learning). Images between two labels are told "
    "too, and where an encoder does not see what the labels mean, it is wrong more often than they are."
)
MEASURE = "how much the two together believe in the label that is given, 0 to 1"


def why_of(given: str, new: str, both: Floats, own: int, better: int) -> str:
    return f"Labelled “{given}”; what is like it says “{new}” ({both[better]:.0%} against {both[own]:.0%})."


def probabilities(x_ND: Floats, y_N: Whole, group_N: Whole, on_progress: Progress) -> Floats:
    """[N, C] of images that their fold did not learn from."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold

    z = (x_ND - x_ND.mean(axis=0)) / (x_ND.std(axis=0) + 1e-6)
    found = np.zeros((len(y_N), int(y_N.max()) + 1))
    rng = np.random.default_rng(0)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # a class of few groups is not in every fold; a fit may end early
        for number, (learned, judged) in enumerate(folds.split(z, y_N, group_N)):
            if len(learned) > MOST:
                learned = rng.choice(learned, MOST, replace=False)
            probe = LogisticRegression(C=STRENGTH, max_iter=200).fit(z[learned], y_N[learned])
            found[judged[:, None], probe.classes_] = probe.predict_proba(z[judged])
            on_progress((number + 1) / FOLDS)
    return found


def confident_issues(own_N: Whole, believed_NC: Floats) -> Floats:
    """[N] bool: confident learning, by cleanlab."""
    try:
        from cleanlab.filter import find_label_issues
    except ModuleNotFoundError as error:
        raise DependencyError(
            "Suspect labels need cleanlab, which is not installed. Install it: pip install 'jepack[app]'"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(find_label_issues(own_N, believed_NC, filter_by=RULE, n_jobs=1), bool)


RULE = "confident_learning"


def neighbours_vote(material: Material, group_N: Whole) -> Floats:
    """[N, C]: votes of the VOTERS nearest that have a label and are no copies, each exp(cosine / 0.07)."""
    codes = material.codes_N[material.at_NL]
    votes = (codes >= 0) & (group_N[material.at_NL] != group_N[:, None])
    votes &= np.cumsum(votes, axis=1) <= VOTERS
    near = material.far_NL[:, :1]
    weight = np.where(votes, np.exp((near - material.far_NL) / TEMPERATURE), 0)
    found = np.zeros((len(codes), len(material.classes)))
    np.add.at(found, (np.arange(len(codes))[:, None], np.maximum(codes, 0)), weight)
    return found
