"""What cleanlab and imagededup tell of the same images, each as it comes (for benchmarks.planting)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.checking.material import Material


@dataclass(frozen=True)
class Answer:
    """Of one tool on one kind of fault."""

    fault: str
    by: str
    found: set[Any]  # ids, or pairs of ids
    seconds: float  # of the processor


def rivals(folder: Path, material: Material) -> list[Answer]:
    """All answers about the index of the images below `folder`; a library that is missing is told."""
    answers = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for ask in (cleanlab_labels, cleanlab_datalab, imagededup_hash, imagededup_vectors):
            try:
                answers += list(ask(folder, material))
            except ImportError as error:
                print(f"{ask.__name__}: not run, {error}")
    return answers


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """(its answer, processor seconds)."""
    start = sum(os.times()[:4])  # its children's, too
    return call(), sum(os.times()[:4]) - start


def pairs_of(near: dict[str, list[str]]) -> set[frozenset[str]]:
    return {frozenset((one, other)) for one, some in near.items() for other in some}


def cleanlab_labels(folder: Path, material: Material) -> Iterable[Answer]:
    """Both rules of `find_label_issues` on the probe of `jepack check`, without its groups of copies."""
    from cleanlab.filter import find_label_issues
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.preprocessing import StandardScaler

    y = np.unique(material.labels, return_inverse=True)[1]

    def believed() -> Any:
        return cross_val_predict(
            LogisticRegression(C=0.01, max_iter=200), StandardScaler().fit_transform(material.raw_ND), y,
            method="predict_proba", cv=StratifiedKFold(5, shuffle=True, random_state=0),
        )  # fmt: skip

    probabilities, fitting = timed(believed)
    for rule, name in (("prune_by_noise_rate", "default"), ("confident_learning",) * 2):
        bad, seconds = timed(
            lambda rule=rule: find_label_issues(y, probabilities, filter_by=rule, n_jobs=1)
        )
        found = {one for one, is_bad in zip(material.ids, bad, strict=True) if is_bad}
        yield Answer("labels", f"cleanlab {name}", found, fitting + seconds)


def cleanlab_datalab(folder: Path, material: Material) -> Iterable[Answer]:
    """Near duplicates and outliers of Datalab on the same vectors."""
    from cleanlab import Datalab

    lab = Datalab(data={"label": material.labels}, label_name="label", verbosity=0)

    def ask(kind: str) -> Any:
        lab.find_issues(features=material.raw_ND, issue_types={kind: {}})
        return lab.get_issues(kind)

    issues, seconds = timed(lambda: ask("near_duplicate"))
    near = {material.ids[at]: [material.ids[one] for one in some]
            for at, some in enumerate(issues["near_duplicate_sets"])}  # fmt: skip
    yield Answer("copies", "cleanlab Datalab", pairs_of(near), seconds)
    issues, seconds = timed(lambda: ask("outlier"))
    found = {material.ids[at] for at in np.flatnonzero(issues["is_outlier_issue"])}
    yield Answer("unusual", "cleanlab Datalab", found, seconds)


def imagededup_hash(folder: Path, material: Material) -> Iterable[Answer]:
    """PHash on the files, Hamming distance 10."""
    from imagededup.methods import PHash

    hasher = PHash(verbose=False)
    near, seconds = timed(
        lambda: hasher.find_duplicates(
            image_dir=str(folder), recursive=True, num_enc_workers=0, num_dist_workers=0
        )
    )
    yield Answer("copies", "imagededup PHash", pairs_of(near), seconds)


def imagededup_vectors(folder: Path, material: Material) -> Iterable[Answer]:
    """The rule of its CNN (cosine of 0.9) on the index's vectors: the weights of its own come by download."""
    from imagededup.methods import CNN
    from imagededup.utils.models import CustomModel
    from torch import nn

    rule = CNN(verbose=False, model_config=CustomModel("index", nn.Identity(), lambda image: image))
    vectors = dict(zip(material.ids, material.raw_ND, strict=True))
    near, seconds = timed(lambda: rule.find_duplicates(encoding_map=vectors))
    yield Answer("copies", "imagededup CNN's rule", pairs_of(near), seconds)
