"""Is this encoder worse than the bundle published before it? The gate's third question, asked on request.

Both encoders see the same held-out images, each through its own preprocessing; with class labels they are
also compared on classes, image by image. N images, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from export.evaluation import Evaluation
from export.gates import Thresholds
from export.measure import Outputs, measure_graph, recall_of_neighbours
from jepack.bundle import Bundle
from jepack.decoding import preprocess
from jepack.encoder import EncoderGraph, load_encoder
from jepack.errors import DataError
from jepack.measures import isotropy, retrieval, similarities, vote
from jepack.sources import class_ids, classes_of

NEEDED = 32  # held-out images
VOTERS = 10  # of the kNN vote


@dataclass(frozen=True)
class Regression:
    """What was compared, and a sentence for each check that found the new encoder worse."""

    previous: Bundle
    images: int
    figures: dict[str, Any]
    problems: dict[str, str]  # check: sentence
    allowed: tuple[str, ...] = ()  # checks whose refusal was overridden, --allow

    @property
    def refusals(self) -> list[str]:
        return [text for check, text in self.problems.items() if check not in self.allowed]

    @property
    def warnings(self) -> list[str]:
        return [
            f"{text} (allowed by --allow {check})"
            for check, text in self.problems.items()
            if check in self.allowed
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.previous.name,
            "fingerprints": self.previous.fingerprints,
            "images": self.images,
            "figures": self.figures,
            "worse": self.problems,
            "allowed": [check for check in self.allowed if check in self.problems],
        }


def compare_with(
    previous: Bundle,
    bundle: Bundle,
    truth: Outputs,
    evaluation: Evaluation,
    limits: Thresholds,
    allowed: tuple[str, ...] = (),
) -> Regression:
    """Measure `previous` on the images that judge `bundle`, whose outputs are `truth`."""
    files = evaluation.files
    if len(files) < NEEDED:
        raise DataError(
            f"{bundle.folder}: {len(files)} held-out images; --against needs {NEEDED} to compare on. "
            "Name a folder of images that neither encoder was trained on: --data DIR"
        )
    new, old = truth.held_out(evaluation), outputs_of(previous, evaluation)
    reports = {name: (report_of(new, name), report_of(old, name)) for name in vars(new)}
    agreement = recall_of_neighbours(old.embedding, new.embedding)[0]
    figures: dict[str, Any] = {
        "effective_rank": {
            name: [round(a.effective_rank, 3), round(b.effective_rank, 3)]
            for name, (a, b) in reports.items()
            if name != "projection"
        },
        "excess": [round(excess(report), 5) for report in reports["projection"]],
        "neighbour_agreement": round(agreement, 4),
    }
    problems = {}
    lower = [
        f"{name.replace('_', ' ')} {now:.1f}, was {before:.1f}"
        for name, (now, before) in figures["effective_rank"].items()
        if now < limits.against_rank * before
    ]
    if lower:
        problems["rank"] = (
            f"against {previous.name}: effective rank of the {' and of the '.join(lower)} (at least "
            f"{limits.against_rank:.0%} of it)"
        )
    now, before = figures["excess"]
    if now - before > limits.against_excess:
        problems["isotropy"] = (
            f"against {previous.name}: the projection is farther from N(0, I): {now:.4f} per image, was "
            f"{before:.4f} (at most {limits.against_excess:g} more)"
        )
    if agreement < limits.against_neighbours:
        problems["neighbours"] = (
            f"against {previous.name}: {agreement:.0%} of the 10 nearest neighbours are the same (at least "
            f"{limits.against_neighbours:.0%}): another notion of what is alike"
        )
    problems |= compare_classes(bundle, previous, new, old, evaluation, limits, figures)
    return Regression(previous, len(files), figures, problems, allowed)


def compare_classes(
    bundle: Bundle,
    previous: Bundle,
    new: Outputs,
    old: Outputs,
    evaluation: Evaluation,
    limits: Thresholds,
    figures: dict[str, Any],
) -> dict[str, str]:
    """The checks that need labels; {} without enough of them. Adds to `figures`."""
    ids = class_ids(evaluation.files)
    known = ids >= 0
    if known.sum() < retrieval.MINIMUM or len(classes_of(evaluation.files)) < 2:
        return {}
    labels = ids[known]
    group_by = (bundle.manifest.get("provenance", {}).get("recipe") or {}).get("group_by")
    of = None
    if group_by and all(group_by in file.columns for file in evaluation.files):
        of = np.array([file.columns[group_by] for file in evaluation.files])[known]
    before, after = (side.embedding[known] for side in (old, new))
    pairs = {
        "knn": [votes(x, labels, of) for x in (after, before)],
        "retrieval": [
            retrieval.measure(x, labels, groups=of).average_precision for x in (after, before)
        ],
    }
    words = {"knn": "kNN accuracy", "retrieval": "mean average precision of same-class search"}
    most = {"knn": limits.against_knn, "retrieval": limits.against_retrieval}
    problems = {}
    for check, (now, then) in pairs.items():
        low, high = retrieval.interval(now - then)
        means = [round(float(now.mean()), 4), round(float(then.mean()), 4)]
        figures[check] = {"now": means[0], "before": means[1], "difference_95": [low, high]}
        if means[1] - means[0] > most[check] and high < 0:
            problems[check] = (
                f"against {previous.name}: {words[check]} {means[0]:.3f}, was {means[1]:.3f} (95 %: "
                f"{low:+.3f} to {high:+.3f}; at most {most[check]:g} less)"
            )
    return problems


def outputs_of(previous: Bundle, evaluation: Evaluation) -> Outputs:
    """The previous encoder's outputs of the held-out images."""
    preprocessing = previous.preprocessing
    images = np.stack([preprocess.load(file.read(), preprocessing) for file in evaluation.files])
    encoder, calibration = load_encoder(previous)
    graph = EncoderGraph(encoder, preprocessing, calibration).eval()
    return measure_graph(graph, encoder, Evaluation(images, 0, "", images[:0]))


def report_of(outputs: Outputs, name: str) -> isotropy.IsotropyReport:
    return isotropy.report(getattr(outputs, name))


def excess(report: isotropy.IsotropyReport) -> float:
    """Of the statistic over its floor, per image: comparable between sample sizes."""
    return (report.statistic - report.floor) / report.samples


def votes(
    x_ND: npt.NDArray[Any], labels: npt.NDArray[Any], groups: npt.NDArray[Any] | None
) -> npt.NDArray[np.float64]:
    """[N]: 1 where the 10 nearest other images, weighted by cosine, vote for the image's class."""
    similar = similarities(np.asarray(x_ND, np.float64))
    if groups is not None:
        similar[groups[:, None] == groups[None]] = -np.inf
    return (vote(similar, labels, VOTERS) == labels).astype(np.float64)
