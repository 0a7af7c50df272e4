"""The plan of the stage: measure, refuse a collapsed encoder, export, compare, write.

N images, E embedding dims, D projection dims.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from export import gates, overrides, regression
from export.evaluation import Evaluation, find_evaluation
from export.extras import EXTRAS, WithExtras, compare_extras, judge_extras
from export.formats import FORMATS, Source
from export.gates import Thresholds, Verdict
from export.measure import Outputs, compare, measure_graph, run_engine, torch_engine
from export.timing import processor, time_engines
from jepack import bundle as bundles
from jepack.bundle import Bundle, card, standing
from jepack.encoder import EncoderGraph, load_encoder
from jepack.errors import ArtifactError, ConfigError, GateError
from jepack.files import check_writable, write_bytes, write_json
from jepack.measures import isotropy
from jepack.sources import source as sources
from jepack.tracing import untraceable

DEFAULT_FORMATS = ("onnx", "torchscript")


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """One export: what it is, how far from PyTorch it is, and whether it was written."""

    format: str
    file: str  # place in the bundle
    facts: dict[str, Any]  # bytes, opset, ... of the file
    parity: dict[str, Any]  # per output: max_abs, cosine, recall_at_10, statistic, ...
    verdict: Verdict
    written: bool = False
    made: bool = True  # False: an optional format that could not even be converted

    def to_json(self) -> dict[str, Any]:
        problems = {"refusals": self.verdict.refusals} if self.verdict.refusals else {}
        return {"format": self.format, **self.facts, **self.parity, **problems}


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What `export_bundle` did; also in the bundle's isotropy.json and manifest."""

    bundle: Bundle
    images: dict[str, Any]  # where the evaluation images came from, and how many
    outputs: dict[str, isotropy.IsotropyReport]  # embedding, raw_projection, projection
    exports: list[ExportedFile]
    gate: dict[str, Any]  # passed, forced, refusals, warnings, thresholds
    promises: dict[str, bool]

    def to_json(self) -> dict[str, Any]:
        return {
            "bundle": str(self.bundle.folder),
            "images": self.images,
            "outputs": {name: report.to_json() for name, report in self.outputs.items()},
            "exports": {item.file: item.to_json() for item in self.exports},
            "written": [item.file for item in self.exports if item.written],
            "gate": self.gate,
            "promises": self.promises,
        }


def export_bundle(
    bundle: Bundle,
    *,
    formats: Sequence[str] = DEFAULT_FORMATS,
    data: sources.Source | Path | None = None,
    max_images: int = 512,
    thresholds: Thresholds | None = None,
    extras: Sequence[str] = (),
    against: Bundle | None = None,
    allow: Sequence[str] = (),
    force: bool = False,
    timing: bool = True,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda step: None,
) -> ExportResult:
    """Write the exports into the bundle, or raise GateError and leave it as it was.

    `data` is a folder of images the encoder was not trained on; without it the folder recorded in the
    manifest is used, else the golden images alone. `extras` adds outputs to the ONNX formats, see
    export/extras.py. `against` is the bundle published before, which this
    one must not be worse than; `allow` names checks of that comparison that only warn. `timing` measures
    speed too, `say` hears each step, `force` writes what the gate refuses, and the manifest records it.
    `dry_run` does everything but write. ArtifactError when torch cannot make a format of this encoder.
    """
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown or not formats:
        raise ConfigError(
            f"unknown formats {unknown or '(none)'}: choose from {', '.join(FORMATS)}"
        )
    if set(extras) - set(EXTRAS):
        raise ConfigError(f"extra outputs are {', '.join(EXTRAS)}; found {', '.join(extras)}")
    strange = sorted(set(allow) - set(regression.CHECKS))
    if strange or (allow and against is None):
        raise ConfigError(
            f"allowed are {', '.join(regression.CHECKS)}, together with a bundle to compare with "
            f"(--against); found {', '.join(allow)}"
        )
    if not dry_run:
        bundles.refuse_cached(bundle.folder)
        check_writable(bundle.folder, "Export a copy of the bundle.", replaced=True)
    thresholds = thresholds or Thresholds()
    evaluation = find_evaluation(bundle, data, max_images)
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
    if verdict.refusals and not force:
        raise refusal(bundle, verdict)
    with TemporaryDirectory(prefix="jepack-export-") as work:
        more = WithExtras(graph, extras).eval() if extras else None
        source = Source(graph, evaluation.calibration, Path(work), more)
        exports = make_all(bundle, formats, source, evaluation, truth, thresholds, say)
        for item in exports:
            if not FORMATS[item.format].optional:
                verdict += item.verdict
        if verdict.refusals and not force:
            raise refusal(bundle, verdict)
        exports = [
            replace(e, written=e.made and (force or not e.verdict.refusals)) for e in exports
        ]
        if timing and any(item.made for item in exports):
            say("Timing the exports beside PyTorch")
            exports = time_exports(exports, source, evaluation, thresholds)
        result = ExportResult(
            bundle=bundle,
            images=evaluation.to_json(),
            outputs=reports,
            exports=exports,
            gate={
                **gate_record(bundle, verdict, exports),
                "thresholds": thresholds.to_json(),
                "changed_thresholds": overrides.changed(thresholds),
                **({"against": compared.to_json()} if compared else {}),
            },
            promises=gates.promises(truth.projection, evaluation, thresholds),
        )
        if dry_run:
            return result
        say("Writing the bundle")
        return replace(result, bundle=write(result, source))


def make_all(
    bundle: Bundle,
    formats: Sequence[str],
    source: Source,
    evaluation: Evaluation,
    truth: Outputs,
    thresholds: Thresholds,
    say: Callable[[str], None],
) -> list[ExportedFile]:
    """Every format, compared. Raises ArtifactError when one that must be there cannot be made, and says
    which can."""
    exports, failed = [], {}
    for name in formats:
        try:
            exports.append(make(FORMATS[name], source, evaluation, truth, thresholds, say))
        except ArtifactError as error:
            if FORMATS[name].optional:
                exports.append(not_made(FORMATS[name], str(error)))
            else:
                failed[name] = str(error)
    if not failed:
        return exports
    sound = [item.format for item in exports if item.made and not item.verdict.refusals]
    for name in (*DEFAULT_FORMATS, "pt2"):
        if name not in (*formats, *sound):
            say(f"{FORMATS[name].file}: can it be made?")
            with suppress(ArtifactError):
                item = make(FORMATS[name], source, evaluation, truth, thresholds, say)
                sound += [] if item.verdict.refusals else [name]
    reasons = "; ".join(f"{FORMATS[name].file}: {reason}" for name, reason in failed.items())
    works = f"What works: --formats {','.join(sound)}" if sound else "No other format works either"
    serving = " (`jepack serve` needs onnx)" if "onnx" in failed else ""
    raise ArtifactError(f"{bundle.folder}: {reasons}. Nothing was written. {works}{serving}")


def not_made(kind: Any, reason: str) -> ExportedFile:
    """The row of an optional format that could not be made at all."""
    return ExportedFile(
        format=kind.name,
        file=kind.file,
        facts={"bytes": 0},
        parity={output: {"broken": "could not be made"} for output in bundles.OUTPUTS},
        verdict=Verdict([f"{kind.file}: {reason}"]),
        made=False,
    )


def gate_record(
    bundle: Bundle, verdict: Verdict, exports: Sequence[ExportedFile]
) -> dict[str, Any]:
    """Passed or forced, and why. Forced files are those in the bundle that the gate refused, of this
    export and of earlier ones: a refusal of an optional format stops nothing, but it stays said."""
    made = {item.file: item.verdict.refusals for item in exports if item.written}
    replaced = {"encoder", *(item.file for item in exports)}
    earlier = {file: why for file, why in standing.forced(bundle).items() if file not in replaced}
    files = {**earlier, **{file: why for file, why in made.items() if why}}
    reasons = verdict.refusals + [reason for why in files.values() for reason in why]
    return {
        "passed": not reasons,
        "forced": bool(reasons),
        "forced_files": files,
        "refusals": list(dict.fromkeys(reasons)),
        "warnings": verdict.warnings,
    }


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


def make(
    kind: Any,
    source: Source,
    evaluation: Evaluation,
    truth: Outputs,
    thresholds: Thresholds,
    say: Callable[[str], None],
) -> ExportedFile:
    """Export in one format and compare it with PyTorch on every evaluation image."""
    say(f"{kind.file}: exporting")
    path = source.folder / kind.file
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        facts = kind.write(source, path)
    except ArtifactError:
        raise
    except Exception as error:  # torch and onnxruntime raise a wide family
        raise untraceable(kind.name, error) from error
    say(f"{kind.file}: comparing with PyTorch")
    found = run_engine(kind.engine(path), evaluation.images)
    parity = compare(truth, found, evaluation)
    limits = thresholds.parity[kind.precision]
    item = ExportedFile(
        format=kind.name,
        file=kind.file,
        facts={"bytes": path.stat().st_size, **facts},
        parity=parity,
        verdict=gates.judge_export(kind.file, parity, limits),
    )
    if source.extras is None or not kind.file.endswith(".onnx"):
        return item
    more = compare_extras(source.extras, path, evaluation)
    return replace(
        item,
        facts={**item.facts, "extra_outputs": more},
        verdict=item.verdict + judge_extras(kind.file, more, limits),
    )


def time_exports(
    exports: list[ExportedFile], source: Source, evaluation: Evaluation, limits: Thresholds
) -> list[ExportedFile]:
    """Adds milliseconds and the ratio to PyTorch eager; says whether int8 is worth having here."""
    engines = {
        item.file: FORMATS[item.format].engine(source.folder / item.file)
        for item in exports
        if item.made
    }
    found = time_engines({"eager": torch_engine(source.graph), **engines}, evaluation.images)
    eager, result = found.pop("eager"), []
    for item in exports:
        if not item.made:
            result.append(item)
            continue
        spent = found[item.file]
        facts: dict[str, Any] = {
            "milliseconds": spent,
            "speed": {batch: round(eager[batch] / spent[batch], 2) for batch in spent},
        }
        plain = found.get(FORMATS["onnx"].file)
        if item.format == "int8" and plain:
            gain = plain["8"] / spent["8"]
            facts["over_float32"] = round(gain, 2)
            facts["recommended"] = gain >= limits.min_int8_speedup and not item.verdict.refusals
        result.append(replace(item, facts={**item.facts, **facts}))
    return result


def write(result: ExportResult, source: Source) -> Bundle:
    """Replace the bundle by one with the exports, the measurements and the gate's record."""
    bundle = result.bundle
    changes = {"gate": result.gate, "promises": result.promises}
    with bundles.editing(bundle, changes) as stage:
        for item in result.exports:
            (stage / item.file).unlink(missing_ok=True)
            if item.written:
                write_bytes(stage / item.file, (source.folder / item.file).read_bytes())
        write_json(stage / "isotropy.json", isotropy_json(bundle, result))
        card.refresh(stage, {**bundle.manifest, **changes})
    return bundles.load(bundle.folder)


def isotropy_json(bundle: Bundle, result: ExportResult) -> dict[str, Any]:
    """What was measured now, and of earlier exports that are still in the bundle."""
    measured = result.to_json()
    exports = {**bundle.isotropy().get("exports", {}), **measured["exports"]}
    left_out = {item.file for item in result.exports if not item.written}
    present = (set(bundle.manifest["files"]) - left_out) | set(measured["written"])
    libraries = ("torch", "timm", "onnx", "onnxruntime")
    return {
        "images": measured["images"],
        "outputs": measured["outputs"],
        "exports": {file: facts for file, facts in exports.items() if file in present},
        "left_out": {
            file: facts for file, facts in measured["exports"].items() if file in left_out
        },
        "machine": {
            "processor": processor(),
            "threads": torch.get_num_threads(),
            **{name: version(name) for name in libraries},
        },
    }


def refusal(bundle: Bundle, verdict: Verdict) -> GateError:
    listing = "\n".join(f"  - {reason}" for reason in verdict.refusals)
    return GateError(
        f"{bundle.folder}: the gate refuses this encoder, nothing was written.\n{listing}\n"
        "Train longer or with other settings; see what it measured: "
        f"jepack isotropy {bundle.folder}. To export all the same (recorded in the manifest): --force; "
        "to pass over one check of --against: --allow CHECK"
    )
