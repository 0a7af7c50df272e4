"""A head and its judgement as the probe that a bundle keeps, and keeping it."""

from __future__ import annotations

from collections.abc import Mapping

from jepack.bundle import Bundle, Probe, card, editing, write_probe
from jepack.probing.conformal import threshold
from jepack.probing.holding import Fitted
from jepack.probing.judging import Judgement

Figures = Mapping[str, float | int | str | bool | None]


def as_probe(
    name: str,
    bundle: Bundle,
    output: str,
    fitted: Fitted,
    judged: Judgement,
    error_rate: float,
    *,
    labels: int,
    kept_together_by: str,
    more: Figures | None = None,
) -> Probe:
    """With its figures: those of the judgement, of images that the head did not see.

    `labels`: images with one, held back or not. `kept_together_by`: what the groups of the judgement are, ""
    for none. Too few images held back for `error_rate` leave it and its threshold None.
    """
    head, most = fitted.head, threshold(fitted.scores, error_rate)
    right, random = judged.accuracy, judged.random
    return Probe(
        name=name,
        output=output,
        fingerprint=bundle.fingerprints[output],
        classes=head.classes,
        mean_D=head.mean_D,
        scale_D=head.scale_D,
        weight_CD=head.weight_CD,
        bias_C=head.bias_C,
        error_rate=None if most is None else error_rate,
        threshold=most,
        figures={
            "kind": head.kind,
            "labels": labels,
            "held_back": len(fitted.scores),  # that the threshold was taken from
            "judged": judged.images,
            "accuracy": round(right.share, 4),
            "accuracy_low": round(right.low, 4),
            "accuracy_high": round(right.high, 4),
            "log_loss": round(judged.log_loss, 4),
            "calibration_error": round(judged.calibration_error, 4),
            "majority": round(judged.majority, 4),
            "random_encoder": None if random is None else round(random.share, 4),
            "folds": judged.folds,
            "kept_together_by": kept_together_by or None,
            "groups": judged.groups,
            **(more or {}),
        },
    )


def keep(bundle: Bundle, probe: Probe) -> None:
    """Write it into the bundle, and name it in its card. Raises as `editing` and `write_probe` do."""
    with editing(bundle) as stage:
        write_probe(stage, probe)
        card.write(stage, bundle.manifest)
