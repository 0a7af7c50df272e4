"""The null of a bundle as a file: null.safetensors, what held-out images look like to its projection.

A null is optional: bundles from before it load as ever. What comes from a file is checked whole, because
a watcher divides by it and believes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from jepack.bundle.hardening import misfit, shapes_in
from jepack.files import write_bytes
from jepack.measures import FAULTS, Null
from jepack.measures.null import BLOCK, LEAST_CHANNELS, LOOKING_BACK, WHOLE

NULL = "null.safetensors"
# What a watcher keeps in memory grows with these: some 200 MB at the most.
MOST_DIRECTIONS = 256
MOST_KNOTS = 16
MOST_WINDOWS = 16
LONGEST = 16_384  # images of a window
MOST_NUMBERS = 65_536  # scores, runs


def write_null(stage: Path, null: Null) -> None:
    """Into a bundle that is being written or edited; its manifest then lists it with its SHA-256."""
    write_bytes(stage / NULL, save(null.tensors()))


def read_null(folder: Path) -> Null | None:
    """Of a bundle that was checked; None where it has none."""
    path = folder / NULL
    return Null.of(load_file(path)) if path.is_file() else None


def null_problems(path: Path, manifest: dict[str, Any]) -> list[str]:
    """What a null.safetensors of sound bytes may still get wrong: names, shapes, order, signs."""
    try:
        shapes = shapes_in(path)
    except ValueError as error:
        return [f"{path.name}: {error}"]
    sizes = {name: shapes.get(name) or [0] for name in ("scale", "knots", "windows")}
    directions, knots, windows = (size[0] for size in sizes.values())
    scores, highest = ((shapes.get(name) or [0])[0] for name in ("scores", "highest"))
    limits = (
        ("directions", directions, MOST_DIRECTIONS), ("knots", knots, MOST_KNOTS),
        ("windows", windows, MOST_WINDOWS), ("scores", scores, MOST_NUMBERS),
        ("highest", highest, MOST_NUMBERS),
    )  # fmt: skip
    for name, count, most in limits:
        if not 1 <= count <= most:
            return [f"{path.name}: {count} {name}, must be 1 to {most}"]
    width = manifest["dimensions"]["projection"]
    # Nulls from before `known` have three channels; later ones four, one more where faults are known, and
    # with `squares` another and those that look back.
    channels, back = LEAST_CHANNELS, len(LOOKING_BACK) - 1
    optional: dict[str, list[int]] = {}
    if "known" in shapes:
        faults = (shapes["known"] or [0])[0]
        channels, optional["known"] = channels + 1, [faults]
        if faults:
            channels, back, optional["faults"] = channels + 1, back + 1, [faults, width + 1]
    if "squares" in shapes or "changes" in shapes:
        channels, optional["squares"] = channels + 1, [3, width]
        optional["changes"] = [back, windows - 1, 3]
    wanted = {
        "directions": [width, directions], "scale": [directions], "knots": [knots],
        "cosines": [knots, directions], "sines": [knots, directions], "mean": [width], "spread": [],
        "scores": [scores], "windows": [windows], "moments": [channels, windows, 3],
        "highest": [highest], "images": [2], **optional,
    }  # fmt: skip
    if problem := misfit(shapes, wanted):
        return [f"{path.name}: not a null of this bundle's projection ({problem})"]
    try:
        found = load_file(path)
    except Exception as error:  # safetensors raises a wide family for kinds that numpy lacks
        return [f"{path.name}: cannot be read ({error or type(error).__name__})"]
    return [f"{path.name}: {problem}" for problem in value_problems(found)]


def value_problems(found: dict[str, Any]) -> list[str]:
    """Numbers that no held-out images could have given."""
    for name, values in found.items():
        kind = np.dtype(np.int64 if name in WHOLE else np.float32)
        if values.dtype != kind:
            return [f"{name} are {values.dtype}, must be {kind}"]
    ascending = all((np.diff(found[name]) >= 0).all() for name in ("scores", "highest"))
    windows, images = found["windows"], found["images"]
    known = found.get("known", np.zeros(0, np.int64))
    lengths = np.linalg.norm(found["directions"].astype(np.float64), axis=0)
    checks = {
        "directions must have length 1": bool((np.abs(lengths - 1) < 1e-3).all()),
        "scores and highest must ascend": ascending,
        "scores must not be negative": bool(found["scores"][0] >= 0),
        "scale and spread must be above 0": bool(
            (found["scale"] > 0).all() and found["spread"] > 0
        ),
        "standard deviations of windows must be above 0": all(
            bool((found[name][:, :, 1] > 0).all())
            for name in ("moments", "changes")
            if name in found
        ),
        "squares must be above 0": bool((found.get("squares", np.ones(3))[[0, 2]] > 0).all()),
        "cosines and sines must lie in -1 to 1": all(
            (np.abs(found[name]) <= 1.000001).all() for name in ("cosines", "sines")
        ),
        f"windows must ascend, each a multiple of {BLOCK} up to {LONGEST}": bool(
            (np.diff(windows) > 0).all()
            and (windows % BLOCK == 0).all()
            and windows[0] > 0
            and windows[-1] <= LONGEST
        ),
        f"known must name faults, 0 to {len(FAULTS) - 1}, each once": bool(
            ((known >= 0) & (known < len(FAULTS))).all() and len(set(known.tolist())) == len(known)
        ),
        "images must be the number of scores and a number above 0": bool(
            images[0] == len(found["scores"]) and 0 < images[1] <= MOST_NUMBERS
        ),
    }
    return [text for text, holds in checks.items() if not holds]
