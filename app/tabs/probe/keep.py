"""A probe of the page into the bundle whose vectors it reads."""

from __future__ import annotations

from pathlib import Path

from app.desk import Desk
from app.tabs.probe.bench import Found, Question
from jepack.bundle import load
from jepack.errors import ArtifactError, ConfigError
from jepack.probing import as_probe, keep


def keep_probe(desk: Desk, name: str, found: Found, question: Question, rate: float) -> Path:
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
    assert found.fitted is not None
    assert found.judgement is not None
    probe = as_probe(
        name, bundle, info.output, found.fitted, found.judgement, rate,
        labels=found.labelled, kept_together_by=question.group,
        more={"labels_of_people": len(found.standing.labels)},
    )  # fmt: skip
    keep(bundle, probe)
    return bundle.folder / "probes" / f"{name}.safetensors"
