"""A probe of the page into the bundle whose vectors it reads."""

from __future__ import annotations

from pathlib import Path

from app.desk import Desk
from app.tabs.probe.bench import Found, Question
from jepack.bundle import Probe, editing, load, write_probe
from jepack.errors import ArtifactError, ConfigError


def keep_probe(
    desk: Desk, name: str, found: Found, question: Question, rate: float, most: float | None
) -> Path:
    """Write `probes/NAME` into the bundle that is at hand; the path of its head.

    Raises ConfigError without a bundle or a usable name, ArtifactError for a bundle that is not sound.
    """
    bundle, info = desk.engine.bundle, desk.library.store.info
    if bundle is None:
        raise ConfigError(
            "No bundle is at hand, so there is nothing to keep the probe in. Open the page with it: "
            f"jepack app {desk.library.folder} --bundle BUNDLE"
        )
    bundle = load(bundle.folder)  # as it is now: another page may have kept a probe
    if bundle.fingerprints[info.output] != info.fingerprint:
        raise ArtifactError(
            f"{bundle.folder}: its {info.output} is {bundle.fingerprints[info.output]}, the index holds "
            f"{info.fingerprint}: another encoder. Open the index's own bundle"
        )
    head, judged = found.head, found.judgement
    assert head is not None
    assert judged is not None
    right, random = judged.accuracy, judged.random
    probe = Probe(
        name=name,
        output=info.output,
        fingerprint=info.fingerprint,
        classes=head.classes,
        mean_D=head.mean_D,
        scale_D=head.scale_D,
        weight_CD=head.weight_CD,
        bias_C=head.bias_C,
        error_rate=None if most is None else rate,
        threshold=most,
        figures={
            "kind": head.kind,
            "labels": found.labelled,
            "labels_of_people": len(found.standing.labels),
            "held_back": len(found.scores),  # that the threshold was taken from
            "judged": judged.images,
            "accuracy": round(right.share, 4),
            "accuracy_low": round(right.low, 4),
            "accuracy_high": round(right.high, 4),
            "majority": round(judged.majority, 4),
            "random_encoder": None if random is None else round(random.share, 4),
            "folds": judged.folds,
            "kept_together_by": question.group or None,
            "groups": judged.groups,
        },
    )
    with editing(bundle) as stage:
        write_probe(stage, probe)
    return bundle.folder / "probes" / f"{name}.safetensors"
