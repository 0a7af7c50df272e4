"""What an export did, and how the bundle records it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import torch

from export.formats import Source
from export.gates import Verdict
from export.timing import processor
from jepack import bundle as bundles
from jepack.bundle import Bundle, card, standing
from jepack.files import write_bytes, write_json
from jepack.measures import Null, isotropy


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
    null: Null | None = None  # to be written; None keeps what the bundle has
    shorter: dict[str, Any] = field(
        default_factory=dict
    )  # what shorter rows keep; {}: too few images

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


def write(result: ExportResult, source: Source) -> Bundle:
    """Replace the bundle by one with the exports, the measurements and the gate's record."""
    bundle = result.bundle
    changes = {"gate": result.gate, "promises": result.promises}
    with bundles.editing(bundle, changes) as stage:
        if result.null is not None:
            (stage / bundles.NULL).unlink(missing_ok=True)
            bundles.write_null(stage, result.null)
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
        **({"shorter": result.shorter} if result.shorter else {}),
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
