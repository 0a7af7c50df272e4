"""What a user of a bundle must be told: what the gate refused, and changes since it was pulled."""

from __future__ import annotations

from typing import Any

from jepack.bundle import origin
from jepack.bundle.folder import Bundle
from jepack.bundle.verifying import printable


def forced(bundle: Bundle) -> dict[str, list[str]]:
    """{file, or "encoder": why the gate refused it} of what is in the bundle all the same.

    Bundles written before the manifest named such files tell them in isotropy.json.
    """
    gate = bundle.manifest.get("gate") or {}
    overridden: dict[str, list[str]] = {}
    exports = bundle.isotropy().get("exports")
    for file, facts in (exports if isinstance(exports, dict) else {}).items():
        refusals = facts.get("refusals") if isinstance(facts, dict) else None
        if refusals and file in bundle.manifest["files"]:
            overridden[file] = sentences(refusals)
    for file, refusals in (gate.get("forced_files") or {}).items():
        if file in bundle.manifest["files"]:
            overridden[file] = sentences(refusals)
    known = {reason for reasons in overridden.values() for reason in reasons}
    others = [reason for reason in sentences(gate.get("refusals")) if reason not in known]
    if others or (not overridden and (gate.get("forced") or gate.get("passed", True) is False)):
        overridden = {"encoder": others, **overridden}
    return overridden


def sentences(value: Any) -> list[str]:
    return [printable(str(item)) for item in value] if isinstance(value, list) else []


def notes(bundle: Bundle) -> list[str]:
    """One sentence for each thing a user of the bundle must know; empty for an ordinary one."""
    lines = [
        f"{what} was refused by the gate and kept by --force"
        + (f": {reasons[0]}" if reasons else "")
        + (f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else "")
        for what, reasons in forced(bundle).items()
    ]
    source = origin.source_of(bundle.folder)
    if source is not None and origin.edited(bundle.folder, source):
        lines.append(f"edited here after it was pulled as {source.address}: not that revision")
    return lines
