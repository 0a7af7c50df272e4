"""The plan of the stage: measure, refuse a collapsed encoder, export, compare, write.

N images, E embedding dims, D projection dims.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from export import gates, overrides, regression
from export.choices import CHECKS, DEFAULT_FORMATS
from export.evaluation import Evaluation, find_evaluation
from export.extras import EXTRAS, WithExtras
from export.formats import FORMATS, Source
from export.gates import Thresholds, Verdict
from export.making import make_all, time_exports
from export.measure import Outputs, measure_graph, run_engine, shorter, torch_engine
from export.result import ExportedFile, ExportResult, gate_record, write
from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.disk import check_writable
from jepack.encoder import EncoderGraph, load_encoder
from jepack.errors import ConfigError, GateError
from jepack.faults import FAULT_IMAGES, faults
from jepack.measures import MINIMUM, Null, isotropy, null_where_possible
from jepack.sources import source as sources

__all__ = [
    "DEFAULT_FORMATS",
    "ExportResult",
    "ExportedFile",
    "export_bundle",
    "judge_encoder",
]


def export_bundle(
    bundle: Bundle,
    *,
    formats: Sequence[str] = DEFAULT_FORMATS,
    data: sources.Source | Path | None = None,
    max_images: int = 512,
    thresholds: Thresholds | None = None,
    extras: Sequence[str] = (),
    probes: Sequence[str] = (),
    against: Bundle | None = None,
    allow: Sequence[str] = (),
    force: bool = False,
    timing: bool = True,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda step: None,
) -> ExportResult:
    """Write the exports into the bundle, or raise GateError and leave it as it was.

    `data` is a folder of images the encoder was not trained on; without it the folder recorded in the
    manifest is used, else the golden images alone. `extras` and `probes`, names of those that the bundle
    keeps, add outputs to the ONNX formats, see export/extras.py. `against` is the bundle published before,
    which this one must not be worse than; `allow` names checks of that comparison that only warn. `timing`
    measures speed too, `say` hears each step, `force` writes what the gate refuses, and the manifest records
    it. `dry_run` does everything but write. ArtifactError when torch cannot make a format of this encoder.
    """
    check_request(formats, extras, allow, against)
    heads = [bundle.probe(name) for name in dict.fromkeys(probes)]
    if not dry_run:
        bundles.refuse_cached(bundle.folder)
        check_writable(bundle.folder, "Export a copy of the bundle.", replaced=True)
    thresholds = thresholds or Thresholds()
    evaluation = find_evaluation(bundle, data, max_images)
    judged = judge(bundle, evaluation, thresholds, formats, against, allow, say)
    stop_at_refusals(bundle, judged.verdict, force=force)
    with TemporaryDirectory(prefix="jepack-export-") as work:
        more = WithExtras(judged.graph, extras, heads).eval() if extras or heads else None
        source = Source(judged.graph, evaluation.calibration, Path(work), more)
        exports = make_all(bundle, formats, source, evaluation, judged.truth, thresholds, say)
        for item in exports:
            if not FORMATS[item.format].optional:
                judged = replace(judged, verdict=judged.verdict + item.verdict)
        stop_at_refusals(bundle, judged.verdict, force=force)
        exports = [
            replace(e, written=e.made and (force or not e.verdict.refusals)) for e in exports
        ]
        if timing and any(item.made for item in exports):
            say("Timing the exports beside PyTorch")
            exports = time_exports(exports, source, evaluation, thresholds)
        result = result_of(bundle, judged, exports, evaluation, thresholds)
        if dry_run:
            return result
        say("Writing the bundle")
        return replace(result, bundle=write(result, source))


def check_request(
    formats: Sequence[str], extras: Sequence[str], allow: Sequence[str], against: Bundle | None
) -> None:
    """ConfigError for names that there are not."""
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown or not formats:
        raise ConfigError(
            f"unknown formats {unknown or '(none)'}: choose from {', '.join(FORMATS)}"
        )
    if set(extras) - set(EXTRAS):
        raise ConfigError(f"extra outputs are {', '.join(EXTRAS)}; found {', '.join(extras)}")
    strange = sorted(set(allow) - set(CHECKS))
    if strange or (allow and against is None):
        raise ConfigError(
            f"allowed are {', '.join(CHECKS)}, together with a bundle to compare with "
            f"(--against); found {', '.join(allow)}"
        )


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The encoder in PyTorch: what it gives for the evaluation images, and what the gate says of it."""

    graph: EncoderGraph
    truth: Outputs
    reports: dict[str, isotropy.IsotropyReport]  # embedding, raw_projection, projection
    verdict: Verdict
    compared: regression.Regression | None  # with the bundle published before


def judge(
    bundle: Bundle,
    evaluation: Evaluation,
    thresholds: Thresholds,
    formats: Sequence[str],
    against: Bundle | None,
    allow: Sequence[str],
    say: Callable[[str], None],
) -> Judged:
    """Gate (a), and the comparison with `against` where nothing refuses the encoder already."""
    say(f"PyTorch on {evaluation.source}")
    encoder, calibration = load_encoder(bundle)
    graph = EncoderGraph(encoder, bundle.preprocessing, calibration).eval()
    truth = measure_graph(graph, encoder, evaluation)
    verdict, reports = judge_encoder(bundle, truth, evaluation, thresholds)
    verdict += gates.judge_weights(encoder, thresholds)
    verdict += gates.judge_images(evaluation, formats, thresholds)
    compared = None
    if against is not None and not verdict.refusals:
        say(f"Comparing with {against.name}")
        compared = regression.compare_with(
            against, bundle, truth, evaluation, thresholds, tuple(allow)
        )
        verdict += Verdict(compared.refusals, compared.warnings)
    return Judged(graph=graph, truth=truth, reports=reports, verdict=verdict, compared=compared)


def judge_encoder(
    bundle: Bundle, truth: Outputs, evaluation: Evaluation, thresholds: Thresholds
) -> tuple[Verdict, dict[str, isotropy.IsotropyReport]]:
    """Gate (a) on the raw outputs, and the golden images: do the weights still give what they gave?"""
    verdict = gates.judge_golden(bundle, truth, evaluation.golden_count, thresholds)
    held = truth.held_out(evaluation)
    raw = {"embedding": held.embedding, "raw_projection": held.raw_projection}
    for name, values in raw.items():
        gaussian = name == "raw_projection" and bundle.config()["jepack"]["method"] == "lejepa"
        verdict += gates.judge_collapse(name, values, thresholds, unit_variance=gaussian)
    everything = {**raw, "projection": held.projection}
    reports = {n: isotropy.report(x) for n, x in everything.items() if np.isfinite(x).all()}
    if "projection" not in reports and "raw_projection" in reports:
        verdict += Verdict(["projection: not finite, though it is before calibration"])
    return verdict, reports


def result_of(
    bundle: Bundle,
    judged: Judged,
    exports: list[ExportedFile],
    evaluation: Evaluation,
    thresholds: Thresholds,
) -> ExportResult:
    promises = gates.promises(judged.truth.projection, evaluation, thresholds)
    return ExportResult(
        bundle=bundle,
        images=evaluation.to_json(),
        outputs=judged.reports,
        exports=exports,
        gate={
            **gate_record(bundle, judged.verdict, exports),
            "thresholds": thresholds.to_json(),
            "changed_thresholds": overrides.changed(thresholds),
            **({"against": judged.compared.to_json()} if judged.compared else {}),
        },
        promises=promises,
        null=null_of(bundle, judged, evaluation, gaussian=promises["drift"]),
        shorter=shorter(judged.truth.held_out(evaluation)) if evaluation.held_out_count else {},
    )


def null_of(
    bundle: Bundle, judged: Judged, evaluation: Evaluation, *, gaussian: bool
) -> Null | None:
    """The null of the held-out images: None where there are too few, or where the bundle's rests on more."""
    images, own = evaluation.held_out_count, bundle.null()
    if images < MINIMUM or (own is not None and own.known is not None and own.held_out >= images):
        return None
    crops, engine = evaluation.images[evaluation.judged][:FAULT_IMAGES], torch_engine(judged.graph)
    faulted = {
        name: run_engine(engine, change(crops)).projection
        for name, change in faults(bundle.preprocessing.channels).items()
    }
    held = judged.truth.held_out(evaluation).projection
    return null_where_possible(held, faulted=faulted, gaussian=gaussian)


def stop_at_refusals(bundle: Bundle, verdict: Verdict, *, force: bool) -> None:
    """GateError when the gate refuses, unless `force`."""
    if not verdict.refusals or force:
        return
    listing = "\n".join(f"  - {reason}" for reason in verdict.refusals)
    raise GateError(
        f"{bundle.folder}: the gate refuses this encoder, nothing was written.\n{listing}\n"
        "Train longer or with other settings; see what it measured: "
        f"jepack isotropy {bundle.folder}. To export all the same (recorded in the manifest): --force; "
        "to pass over one check of --against: --allow CHECK"
    )
