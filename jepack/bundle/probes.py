"""Probes kept in a bundle: `probes/NAME.safetensors`, a head on one output, and `probes/NAME.json` about it.

A head is one affine map: (vector - mean) / scale, times weight, plus bias; softmax gives a probability per
class. What comes from a file is checked whole, because a server believes it. D dimensions, C classes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save

from jepack.bundle.contents import OUTPUTS
from jepack.bundle.hardening import misfit, read_json, shapes_in
from jepack.bundle.values import is_count, is_flag, is_large, is_text, or_nothing, shown
from jepack.errors import ArtifactError, ConfigError
from jepack.files import write_bytes, write_json

FOLDER = "probes"
SCHEMA = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
MOST_CLASSES = 4096
ROUNDING = (
    1e-5  # a threshold is the score of one image, by a head in float32: here it is to pass as well
)
FIELDS = (
    ("mean", "mean_D"), ("scale", "scale_D"), ("weight", "weight_CD"), ("bias", "bias_C"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)  # arrays have no hash
class Probe:
    """A head and what is known of it."""

    name: str
    output: str  # of the bundle, that it reads
    fingerprint: str  # of that output's space
    classes: tuple[str, ...]
    mean_D: npt.NDArray[np.float32]
    scale_D: npt.NDArray[np.float32]  # all above 0
    weight_CD: npt.NDArray[np.float32]
    bias_C: npt.NDArray[np.float32]
    error_rate: float | None = None  # of `threshold`
    threshold: float | None = (
        None  # a class may be named whose probability is 1 - threshold or more
    )
    figures: dict[str, float | int | str | bool | None] = field(default_factory=dict)

    def probabilities(self, x_ND: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """[N, C] of vectors of its output; rows add up to 1."""
        x = np.atleast_2d(np.asarray(x_ND, np.float64))
        logits = ((x - self.mean_D) / self.scale_D) @ self.weight_CD.T.astype(np.float64)
        logits += self.bias_C
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(shares / shares.sum(axis=1, keepdims=True))

    def named(self, x_ND: npt.ArrayLike) -> list[str | None]:
        """The one class each may be at `error_rate`, None is "unsure"; without a threshold the likeliest."""
        return self.named_by(self.probabilities(x_ND))

    def named_by(self, shares_NC: npt.NDArray[np.float64]) -> list[str | None]:
        """As `named`, of probabilities."""
        sets = self.sets_by(shares_NC)
        if sets is None:
            return [self.classes[place] for place in shares_NC.argmax(axis=1)]
        return [self.classes[row.argmax()] if row.sum() == 1 else None for row in sets]

    def sets_by(self, shares_NC: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_] | None:
        """Which classes each may be, [N, C], of probabilities; None without a threshold.

        The true class is missing in a share `error_rate` of the images at most.
        """
        return None if self.threshold is None else 1 - shares_NC <= self.threshold + ROUNDING


def check_probe_name(name: str) -> None:
    """Raise ConfigError for a name that no probe can have."""
    if not name:
        raise ConfigError("the probe needs a name: give it one first, such as cracks-2")
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot name a probe: letters, digits, '-', '_' and '.', 64 at most, such as cracks-2"
        )


def write_probe(stage: Path, probe: Probe) -> None:
    """Into a bundle that is being edited; its manifest then lists both files with their SHA-256.

    Raises ConfigError for a name that is none.
    """
    check_probe_name(probe.name)
    tensors = {name: np.ascontiguousarray(getattr(probe, of), np.float32) for name, of in FIELDS}
    write_bytes(stage / FOLDER / f"{probe.name}.safetensors", save(tensors))
    about = {
        "schema": SCHEMA, "output": probe.output, "fingerprint": probe.fingerprint,
        "classes": list(probe.classes), "error_rate": probe.error_rate, "threshold": probe.threshold,
        "figures": probe.figures,
    }  # fmt: skip
    write_json(stage / FOLDER / f"{probe.name}.json", about)


def names_of(files: Sequence[str] | dict[str, Any]) -> list[str]:
    """The probes among the names of a bundle's files."""
    found = (re.fullmatch(rf"{FOLDER}/({NAME.pattern})\.safetensors", name) for name in files)
    return sorted(match.group(1) for match in found if match)


def read_probe(folder: Path, manifest: dict[str, Any], name: str) -> Probe:
    """Of a bundle that was checked. Raises ArtifactError where it has none of that name."""
    known = names_of(manifest["files"])
    if name not in known:
        listed = f"It has {', '.join(known)}" if known else "It has none: keep one in `jepack app`"
        raise ArtifactError(f"{folder}: no probe is called {shown(name)}. {listed}")
    if problems := probe_problems(folder, manifest, name):
        raise ArtifactError(f"{folder}: {problems[0]}")
    about = read_json(folder / FOLDER / f"{name}.json")
    tensors = load_file(folder / FOLDER / f"{name}.safetensors")
    return Probe(
        name=name, output=about["output"], fingerprint=about["fingerprint"],
        classes=tuple(about["classes"]), error_rate=about["error_rate"],
        threshold=about["threshold"], figures=about["figures"],
        **{field: tensors[tensor] for tensor, field in FIELDS},
    )  # fmt: skip


def probes_problems(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """What is wrong with the probes of a bundle whose files are as its manifest says."""
    names = names_of(manifest["files"])
    whole = {f"{FOLDER}/{name}{suffix}" for name in names for suffix in (".json", ".safetensors")}
    listed = {name for name in manifest["files"] if name.startswith(f"{FOLDER}/")}
    problems = [f"{name}: no file of a probe" for name in sorted(listed - whole)]
    problems += [f"{name}: missing beside its other file" for name in sorted(whole - listed)]
    return problems or [
        problem for name in names for problem in probe_problems(folder, manifest, name)
    ]


def probe_problems(folder: Path, manifest: dict[str, Any], name: str) -> list[str]:
    path = folder / FOLDER / f"{name}.json"
    try:
        about = read_json(path)
    except ValueError as error:
        return [f"{path.name}: not sound JSON ({error})"]
    if problem := about_problem(about, manifest):
        return [f"{FOLDER}/{path.name}: {problem}"]
    path = folder / FOLDER / f"{name}.safetensors"
    width, classes = manifest["dimensions"][about["output"]], len(about["classes"])
    wanted = {"mean": [width], "scale": [width], "weight": [classes, width], "bias": [classes]}
    try:
        problem = misfit(shapes_in(path), wanted)
        tensors = {} if problem else load_file(path)
    except Exception as error:  # safetensors raises a wide family for kinds that numpy lacks
        problem = f"cannot be read ({error or type(error).__name__})"
    if problem is None and any(one.dtype != np.float32 for one in tensors.values()):
        problem = "holds other numbers than float32"
    if problem is None and not (tensors["scale"] > 0).all():
        problem = "scale must be above 0"
    return (
        [] if problem is None else [f"{FOLDER}/{path.name}: not the probe it should be, {problem}"]
    )


def about_problem(about: Any, manifest: dict[str, Any]) -> str | None:
    """The first thing that is wrong in a probe's JSON."""
    keys = {"schema", "output", "fingerprint", "classes", "error_rate", "threshold", "figures"}
    if not isinstance(about, dict) or set(about) != keys:
        return f"must have {', '.join(sorted(keys))} and nothing else"
    if about["schema"] != SCHEMA:
        return f"has schema {shown(about['schema'])}, this jepack reads {SCHEMA}: upgrade jepack"
    if about["output"] not in OUTPUTS:
        return f"reads {shown(about['output'])}, must be {' or '.join(OUTPUTS)}"
    own = manifest["fingerprints"].get(about["output"])
    if about["fingerprint"] != own:
        return (
            f"was made for the space {shown(about['fingerprint'])}, the bundle's {about['output']} is "
            f"{own}: keep it again with this encoder"
        )
    classes = about["classes"]
    if not isinstance(classes, list) or not 2 <= len(classes) <= MOST_CLASSES:
        return f"needs a list of 2 to {MOST_CLASSES} classes"
    if not all(is_text(name) and name for name in classes) or len(set(classes)) < len(classes):
        return "its classes must be different words"
    for key in ("error_rate", "threshold"):
        value = about[key]
        if value is not None and not (is_large(value) and 0 <= value <= 1):
            return f"{key} is {shown(value)}, must lie in 0 to 1"
    plain = or_nothing(lambda v: is_text(v) or is_large(v) or is_flag(v) or is_count(v))
    figures = about["figures"]
    if not isinstance(figures, dict) or not all(map(plain, figures.values())):
        return "figures must be a table of numbers and words"
    return None
