"""Every format made, compared with PyTorch, and timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from export import gates
from export.choices import DEFAULT_FORMATS
from export.evaluation import Evaluation
from export.extras import compare_extras, judge_extras
from export.formats import FORMATS, Format, Source
from export.gates import Thresholds, Verdict
from export.measure import Outputs, compare, run_engine, torch_engine
from export.result import ExportedFile
from export.timing import time_engines
from jepack.bundle import OUTPUTS, Bundle
from jepack.errors import ArtifactError
from jepack.tracing import untraceable


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


def not_made(kind: Format, reason: str) -> ExportedFile:
    """The row of an optional format that could not be made at all."""
    return ExportedFile(
        format=kind.name,
        file=kind.file,
        facts={"bytes": 0},
        parity={output: {"broken": "could not be made"} for output in OUTPUTS},
        verdict=Verdict([f"{kind.file}: {reason}"]),
        made=False,
    )


def make(
    kind: Format,
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
    outputs = run_engine(kind.engine(path), evaluation.images)
    parity = compare(truth, outputs, evaluation)
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
    milliseconds = time_engines({"eager": torch_engine(source.graph), **engines}, evaluation.images)
    eager, timed = milliseconds.pop("eager"), []
    for item in exports:
        if not item.made:
            timed.append(item)
            continue
        spent = milliseconds[item.file]
        facts: dict[str, Any] = {
            "milliseconds": spent,
            "speed": {batch: round(eager[batch] / spent[batch], 2) for batch in spent},
        }
        plain = milliseconds.get(FORMATS["onnx"].file)
        if item.format == "int8" and plain:
            gain = plain["8"] / spent["8"]
            facts["over_float32"] = round(gain, 2)
            facts["recommended"] = gain >= limits.min_int8_speedup and not item.verdict.refusals
        timed.append(replace(item, facts={**item.facts, **facts}))
    return timed
