"""Every file against the manifest, and what is wrong inside files that are as it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jepack.bundle import origin
from jepack.bundle.contents import (
    MANIFEST,
    MAX_SIGNATURE,
    OUTPUTS,
    REQUIRED,
    SCHEMA,
    SIGNATURE,
    SUFFIXES,
    files_of,
    fingerprints,
)
from jepack.bundle.hardening import (
    golden_problems,
    json_problems,
    manifest_problems,
    onnx_problems,
    projector_problems,
    read_json,
    safetensors_problems,
)
from jepack.bundle.ordinary import NULL, null_problems
from jepack.bundle.probes import probes_problems
from jepack.decoding import Preprocessing
from jepack.errors import ArtifactError, ConfigError
from jepack.files import sha256_of


def verify(folder: Path | str) -> list[str]:
    """What is wrong with a bundle, a sentence each; an empty list when it is sound."""
    return [printable(problem) for problem in problems_of(Path(folder))]


def problems_of(folder: Path) -> list[str]:
    if not folder.is_dir():
        return [f"{folder} is not a folder"]
    try:
        manifest = read_manifest(folder)
    except ArtifactError as error:
        return [str(error)]
    problems = manifest_problems(manifest, OUTPUTS) or differences(folder, manifest)
    return problems or signature_problems(folder) or content_problems(folder, manifest)


def printable(text: str) -> str:
    """Text that may hold somebody else's names, safe for a terminal: one line, no escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def differences(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Where the files on disk are not those of the manifest."""
    problems = []
    listed, cached = manifest["files"], origin.hub_cache(folder)
    present = {path.relative_to(folder).as_posix(): path for path in files_of(folder)}
    for name in sorted(set(REQUIRED) - set(listed)):
        problems.append(f"{name}: a bundle must have it, the manifest does not list it")
    for name, entry in sorted(listed.items()):
        path = present.get(name)
        if path is None:
            problems.append(f"{name}: listed in the manifest but missing")
        elif path.is_symlink() and not (cached and cached.holds(path)):
            problems.append(f"{name}: a link, only plain files are accepted")
        elif not path.is_file():
            problems.append(f"{name}: not a plain file")
        elif path.stat().st_size != entry["bytes"]:
            problems.append(f"{name}: {path.stat().st_size} bytes, should be {entry['bytes']}")
        elif sha256_of(path) != entry["sha256"]:
            problems.append(f"{name}: content changed (SHA-256 differs)")
        elif path.suffix not in SUFFIXES and name != "LICENSE":
            problems.append(f"{name}: a bundle holds only {', '.join(SUFFIXES)} files")
    for name in sorted(set(present) - set(listed)):
        problems.append(f"{name}: not listed in the manifest")
    return problems


def signature_problems(folder: Path) -> list[str]:
    """Whether model.sig may be looked at; who made it is checked with a key, `jepack verify`."""
    path, cached = folder / SIGNATURE, origin.hub_cache(folder)
    linked = path.is_symlink() and not (cached and cached.holds(path))
    if linked or (path.exists() and not path.is_file()):
        return [f"{SIGNATURE}: a link or not a plain file"]
    if path.is_file() and path.stat().st_size > MAX_SIGNATURE:
        return [f"{SIGNATURE}: {path.stat().st_size} bytes, at most {MAX_SIGNATURE}"]
    return []


def content_problems(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """What is wrong inside files that are as the manifest says."""
    problems = []
    for name in sorted(manifest["files"]):
        if name.endswith(".safetensors"):
            problems += safetensors_problems(folder / name)
        elif name.endswith(".onnx"):
            problems += onnx_problems(folder / name)
        elif name.endswith(".json"):
            problems += json_problems(folder, name, manifest)
    if problems:
        return problems
    try:
        Preprocessing.from_json(manifest["preprocessing"])
    except (ConfigError, TypeError, KeyError, AttributeError) as error:
        return [f"manifest.json: preprocessing cannot be used ({error})"]
    if fingerprints(manifest) != manifest["fingerprints"]:
        problems.append("manifest.json: fingerprints do not follow from weights and preprocessing")
    problems += projector_problems(
        folder / "projector.safetensors", read_json(folder / "config.json")
    )
    if NULL in manifest["files"]:
        problems += null_problems(folder / NULL, manifest)
    problems += probes_problems(folder, manifest)
    return problems + golden_problems(folder / "golden.safetensors", manifest, OUTPUTS)


def read_manifest(folder: Path) -> dict[str, Any]:
    path, cached = folder / MANIFEST, origin.hub_cache(folder)
    if path.is_symlink() and not (cached and cached.holds(path)):
        raise ArtifactError(f"{MANIFEST}: a link, only plain files are accepted")
    if not path.exists():
        part = f"only a part of {cached.address}" if cached else "not a jepack bundle"
        raise ArtifactError(f"{MANIFEST} is missing: {folder} is {part}")
    try:
        manifest = read_json(path)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{MANIFEST} cannot be read ({error})") from error
    needed = {"schema", "name", "files", "fingerprints", "dimensions", "preprocessing"}
    if not isinstance(manifest, dict) or needed - set(manifest):
        missing = sorted(needed - set(manifest if isinstance(manifest, dict) else ()))
        raise ArtifactError(f"{MANIFEST} lacks {', '.join(missing)}")
    if manifest["schema"] != SCHEMA:
        raise ArtifactError(
            f"{MANIFEST} has schema {manifest['schema']}, this jepack reads {SCHEMA}: "
            "upgrade jepack, or make the bundle again"
        )
    return manifest
