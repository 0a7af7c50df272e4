"""The gate: every limit in one table, and the judgements that use it.

Where the limits come from is measured by benchmarks/gates.py and told in docs/export.md.
N images, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from export.evaluation import MINIMUM, Evaluation
from export.measure import Outputs
from jepack.bundle import OUTPUTS, Bundle
from jepack.encoder import Encoder
from jepack.measures import directions, isotropy


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far an export may be from PyTorch. `recall` is of the 10 nearest neighbours."""

    max_relative: float  # largest difference over the output's root mean square
    cosine: float  # smallest over the images
    statistic_change: float  # relative
    recall: float


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Every limit of the gate. Collapse is judged on raw outputs, before calibration."""

    # (a) collapse refuses, undertrained warns
    min_effective_rank: float = directions.COLLAPSED
    undertrained_rank: float = directions.FEW
    undertrained_variance: float = 0.05  # of a raw LeJEPA projection, which training draws to 1
    max_top_share: float = 0.9  # of the variance along one direction
    min_variation: float = 1e-3  # standard deviation over root mean square norm
    max_dead_share: float = 0.1  # of the projection's coordinates or directions without variance
    # ReLU backbones leave channels unused: 28-40 % before training, below 6 % after an epoch.
    max_dead_share_embedding: float = 0.45
    max_weight: float = 1e12  # a flipped exponent bit makes 1e30 and more
    max_golden_difference: float = 1e-3  # PyTorch now against golden.safetensors, relative
    few_images: int = 64  # held-out images; below that the figures are rough, and a warning says so
    # (b) exports
    parity: dict[str, Parity] = field(
        default_factory=lambda: {
            "float32": Parity(max_relative=1e-3, cosine=0.9999, statistic_change=0.01, recall=0.99),
            "float16": Parity(max_relative=0.1, cosine=0.999, statistic_change=0.02, recall=0.97),
            "int8": Parity(max_relative=5.0, cosine=0.9, statistic_change=0.1, recall=0.9),
        }
    )
    min_int8_speedup: float = 1.5  # over float32 ONNX, batch 8: below that int8 is not recommended
    # (c) promises of the calibrated projection, on held-out images
    promise_images: int = 128
    max_excess: float = 0.01  # (statistic - floor) / N
    max_tail: float = 0.03  # share of images beyond the 99 % point of the chi-square law

    # (d) regression against the bundle published before, on request (export/regression.py)
    against_rank: float = 0.8  # share of its effective rank, embedding and raw projection
    against_excess: float = 0.01  # by which the calibrated projection's excess per image may grow
    against_neighbours: float = 0.1  # recall@10 of its neighbours; two strangers agree on 10 / N
    against_knn: float = 0.02  # loss of kNN accuracy, where it is beyond chance
    against_retrieval: float = 0.02  # loss of mean average precision, where it is beyond chance

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Verdict:
    """Reasons to refuse and reasons to warn, a sentence each."""

    refusals: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(self.refusals + other.refusals, self.warnings + other.warnings)


def judge_collapse(
    name: str, x_ND: npt.NDArray[Any], limits: Thresholds, *, unit_variance: bool = False
) -> Verdict:
    """Has this raw output collapsed? One sentence per way in which it has.

    `unit_variance`: training draws this output to N(0, I), so its size means something.
    """
    x = np.asarray(x_ND, np.float64)
    broken = int((~np.isfinite(x)).any(axis=1).sum())
    if broken:
        return Verdict([f"{name}: {broken} of {len(x)} images give values that are not finite"])
    report = isotropy.report(x)
    total = report.variance * report.dimensions
    variation = float(np.sqrt(total / max(total + report.mean_norm**2, 1e-300)))
    if variation < limits.min_variation:
        return Verdict(
            [
                f"{name}: constant: it varies by {variation:.1e} of its size from image to image "
                f"(at least {limits.min_variation:g})"
            ]
        )
    refusals, warnings = [], []
    spread = report.effective_rank
    top = report.spectrum[0] / (total * len(x) / (len(x) - 1))
    if spread < limits.min_effective_rank:
        refusals.append(
            f"{name}: effective rank {spread:.2f} of {report.dimensions} "
            f"(at least {limits.min_effective_rank:g}): nearly everything lies on one line"
        )
    elif top > limits.max_top_share:
        refusals.append(
            f"{name}: one direction holds {top:.0%} of the variance (at most {limits.max_top_share:.0%})"
        )
    elif spread < min(limits.undertrained_rank, report.dimensions / 2):
        warnings.append(
            f"{name}: effective rank {spread:.1f} of {report.dimensions} is low, as of an encoder that "
            "was hardly trained"
        )
    if unit_variance and report.variance < limits.undertrained_variance:
        warnings.append(
            f"{name}: variance {report.variance:.1e} where training draws it to 1 (at least "
            f"{limits.undertrained_variance:g}): hardly trained, or collapsed while training. Probe it"
        )
    allowed = limits.max_dead_share_embedding if name == "embedding" else limits.max_dead_share
    dead = report.dead_dimensions / report.dimensions
    rank = report.dimensions - report.silent_directions
    possible = min(len(x) - 1, report.dimensions)  # few images span few directions
    if dead > allowed:
        refusals.append(
            f"{name}: {report.dead_dimensions} of {report.dimensions} coordinates never change "
            f"(at most {allowed:.0%})"
        )
    elif rank < (1 - allowed) * possible and len(x) >= 32:
        refusals.append(
            f"{name}: only {rank} of {possible} directions hold variance (at least {1 - allowed:.0%})"
        )
    return Verdict(refusals, warnings)


def judge_weights(encoder: Encoder, limits: Thresholds) -> Verdict:
    """Is any weight absurd? One behind a unit that these images leave idle would show nowhere else."""
    for name, weight in encoder.state_dict().items():
        largest = float(weight.abs().max()) if weight.numel() else 0.0
        if not largest <= limits.max_weight:
            return Verdict([f"{name}: holds a weight of size {largest:.1e}: the file is damaged"])
    return Verdict()


def judge_golden(bundle: Bundle, truth: Outputs, count: int, limits: Thresholds) -> Verdict:
    """Do the weights still give what they gave when the bundle was written?"""
    golden = bundle.golden()
    refusals = []
    for output in OUTPUTS:
        want = golden[output].astype(np.float64)
        scale = max(float(np.sqrt(np.mean(want**2))), 1e-30)
        difference = float(np.abs(getattr(truth, output)[:count] - want).max()) / scale
        if not difference <= limits.max_golden_difference:
            refusals.append(
                f"{output}: differs from golden.safetensors by {difference:.1e} of its size (at most "
                f"{limits.max_golden_difference:g}): the weights are not those the bundle was made of"
            )
    return Verdict(refusals)


def judge_images(evaluation: Evaluation, formats: Sequence[str], limits: Thresholds) -> Verdict:
    """Warnings about what the others are judged by: too few images, or perhaps not held out."""
    warnings, count = [], evaluation.held_out_count
    if not count:
        warnings.append(
            f"judged on the {evaluation.golden_count} golden images alone: their figures are rough. Name "
            "images it was not trained on: --data DIR"
        )
        if "int8" in formats:
            warnings.append(
                "int8 takes its ranges from the images that judge it, for want of others"
            )
    elif count < limits.few_images:
        warnings.append(
            f"only {count} held-out images ({limits.few_images} and more are wanted): figures are rough"
        )
    if not evaluation.known:
        warnings.append(
            "whether the encoder was fitted on some of these images is not recorded: that they are new to "
            "it is your word"
        )
    return Verdict(warnings=warnings)


def judge_export(file: str, parity: dict[str, Any], limits: Parity) -> Verdict:
    """Does this export keep PyTorch's outputs, distribution and neighbours?"""
    refusals = []
    for output in OUTPUTS:
        figures = parity[output]
        if "broken" in figures:
            refusals.append(f"{file}: {output} has {figures['broken']}")
            continue
        checks = (
            ("largest difference over the size", figures["max_relative"], limits.max_relative, 1),
            ("smallest cosine", figures["cosine"], limits.cosine, -1),
            ("change of the statistic", figures["statistic_change"], limits.statistic_change, 1),
            (f"recall@{figures['neighbours']}", figures["recall_at_10"], limits.recall, -1),
        )
        for what, value, limit, sign in checks:
            if sign * (value - limit) > 0:
                bound = "at most" if sign > 0 else "at least"
                refusals.append(f"{file}: {output}: {what} {value:.4g} ({bound} {limit:g})")
    return Verdict(refusals)


def promises(
    projection_ND: npt.NDArray[Any], evaluation: Evaluation, limits: Thresholds
) -> dict[str, bool]:
    """Which promises the calibrated projection keeps on held-out images.

    `drift`: the statistic of a batch of requests may be compared with its known null. `atypicality`:
    one image's squared norm may be read as a chi-square p-value. On too few held-out images neither
    is promised.
    """
    held = np.asarray(projection_ND, np.float64)[evaluation.judged]
    enough = evaluation.held_out_count >= max(limits.promise_images, MINIMUM)
    if not enough or not np.isfinite(held).all():
        return {"drift": False, "atypicality": False}
    report = isotropy.report(held)
    excess = (report.statistic - report.floor) / report.samples
    return {
        "drift": bool(excess <= limits.max_excess),
        "atypicality": bool(report.norm_tail <= limits.max_tail),
    }
