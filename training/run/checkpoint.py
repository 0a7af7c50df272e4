"""Checkpoints: atomic, checksummed, and a previous one to fall back to."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from jepack.errors import ArtifactError
from jepack.files import new_folder, write_bytes, write_json


def folder_of(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def save(run: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write the state after `step` steps; then drop all but the newest `keep` (at least 1) checkpoints.

    Raises ArtifactError when it cannot be written; the checkpoints before it are then untouched.
    """
    stream = io.BytesIO()
    torch.save(state, stream)
    content = stream.getvalue()
    target = folder_of(run, step)
    for leftover in target.parent.glob(".step-*"):  # a kill came while one was written
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        with new_folder(target) as stage:
            write_bytes(stage / "state.pt", content)
            digest = hashlib.sha256(content).hexdigest()
            about = {"step": step, "sha256": digest, "bytes": len(content)}
            # What makes it this run, to be compared before anything is computed.
            about |= {name: state[name] for name in ("total", "run") if name in state}
            write_json(stage / "checkpoint.json", about)
    except ArtifactError as error:
        before = sorted(target.parent.glob("step-*"))
        kept = f"The last checkpoint is {before[-1]}" if before else "There is no checkpoint yet"
        raise ArtifactError(f"{error} {kept}; the same command continues the run.") from error
    folders = sorted(target.parent.glob("step-*"))
    place = folders.index(target)
    for later in folders[place + 1 :]:  # damaged: the run fell back to one before it
        set_aside(later)
    for old in folders[:place][: 1 - keep or None]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def set_aside(folder: Path) -> None:
    """Take a checkpoint that was passed over out of the row, so that it is not taken for the newest."""
    target = folder.with_name(f"passed-over-{folder.name}")
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)


def about_newest(run: Path) -> dict[str, Any] | None:
    """`step`, `total` and `run` as the newest checkpoint tells them, without its weights.

    None where there is no checkpoint, or only such as were written before they told it.
    """
    for folder in sorted((run / "checkpoints").glob("step-*"), reverse=True):
        try:
            about = json.loads((folder / "checkpoint.json").read_text())
            if {"step", "total", "run"} <= set(about):
                return dict(about)
        except (OSError, ValueError, TypeError):
            continue
    return None


def load_newest(
    run: Path, device: torch.device, warn: Callable[[str], None]
) -> dict[str, Any] | None:
    """The newest sound checkpoint of a run; damaged ones are passed over with a warning.

    None when the run has no checkpoint; ArtifactError when it has some and none is sound.
    """
    folders = sorted((run / "checkpoints").glob("step-*"), reverse=True)
    for folder in folders:
        try:
            return load(folder, device)
        except ArtifactError as error:
            warn(f"{error} Falling back to the checkpoint before it.")
    if folders:
        raise ArtifactError(
            f"{run}: none of its {len(folders)} checkpoints is sound. Start again with --fresh."
        )
    return None


def load(folder: Path, device: torch.device) -> dict[str, Any]:
    """One checkpoint, verified against its checksum. No code is run while reading it."""
    try:
        entry = json.loads((folder / "checkpoint.json").read_text())
        content = (folder / "state.pt").read_bytes()
        sound = hashlib.sha256(content).hexdigest() == entry["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder}: incomplete checkpoint ({error}).") from error
    if not sound:
        raise ArtifactError(
            f"{folder}: damaged checkpoint ({len(content)} bytes, {entry.get('bytes')} written, "
            "SHA-256 differs)."
        )
    return torch.load(io.BytesIO(content), map_location=device, weights_only=True)  # type: ignore[no-any-return]
