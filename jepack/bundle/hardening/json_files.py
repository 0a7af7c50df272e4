"""JSON that two readers may read differently, or that leads a loader out of the bundle."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from jepack.bundle.rules import (
    PREPROCESSING,
    config_problems,
    loader_problems,
    table_problems,
)
from jepack.bundle.values import shown

MAX_FILES = 10_000
MAX_JSON = 64 * 1024 * 1024  # bytes


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For json.loads: two values under one name mean that two readers may see two files."""
    value = dict(pairs)
    if len(value) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = sorted(name for name, count in counts.items() if count > 1)
        raise ValueError(f"{', '.join(twice[:3])} named twice")
    return value


def read_json(path: Path) -> Any:
    """The value of a JSON file, read strictly. Raises ValueError saying what is wrong with it."""
    if not path.is_file():  # reading a pipe would wait for ever
        raise ValueError("not a plain file")
    if path.stat().st_size > MAX_JSON:
        raise ValueError(f"{path.stat().st_size} bytes, at most {MAX_JSON}")
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=unique_keys)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def manifest_problems(manifest: dict[str, Any], outputs: tuple[str, ...]) -> list[str]:
    """Entries of the wrong kind, and file names that lead out of the bundle."""
    files = manifest["files"]
    if not isinstance(files, dict) or len(files) > MAX_FILES:
        return [f"manifest.json: files must be a table of at most {MAX_FILES} names"]
    problems = []
    for name, entry in files.items():
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
            problems.append(f"manifest.json: {name!r} is not a path inside the bundle")
        size, digest = (
            (entry.get(k) for k in ("bytes", "sha256")) if isinstance(entry, dict) else (0, 0)
        )
        if type(size) is not int or not isinstance(digest, str) or len(digest) != 64:
            problems.append(f"manifest.json: {name!r} needs bytes and a SHA-256")
    dimensions = manifest["dimensions"]
    for output in outputs:
        value = dimensions.get(output) if isinstance(dimensions, dict) else None
        if type(value) is not int or not 0 < value <= 65_536:
            problems.append(
                f"manifest.json: the dimension of {output} is {value!r}, not in 1..65536"
            )
    default = manifest.get("default_output", outputs[0])
    if default not in outputs:
        problems.append(
            f"manifest.json: default_output is {default!r}, must be {' or '.join(outputs)}"
        )
    promises = manifest.get("promises") or {}
    if not isinstance(promises, dict) or any(type(kept) is not bool for kept in promises.values()):
        problems.append("manifest.json: promises must be a table of true and false")
    if not isinstance(manifest["fingerprints"], dict):
        problems.append("manifest.json: fingerprints must be a table")
    if not isinstance(manifest["name"], str):
        problems.append(f"manifest.json: the name is {shown(manifest['name'])}, not text")
    for part in ("provenance", "gate", "card", "retrieval"):
        if not isinstance(manifest.get(part) or {}, dict):
            problems.append(f"manifest.json: {part} must be a table")
    gate = manifest.get("gate")
    if isinstance(gate, dict) and not isinstance(gate.get("forced_files") or {}, dict):
        problems.append("manifest.json: gate.forced_files must be a table")
    preprocessing = table_problems("preprocessing", manifest["preprocessing"], PREPROCESSING)
    return problems + [f"manifest.json: {problem}" for problem in preprocessing]


def json_problems(folder: Path, name: str, manifest: dict[str, Any]) -> list[str]:
    """JSON that two readers may read differently, or that leads a loader out of the bundle."""
    try:
        value = read_json(folder / name)
    except ValueError as error:
        return [f"{name}: not sound JSON ({error})"]
    if name == "config.json":
        return config_problems(value, manifest["dimensions"])
    return loader_problems(name, value)
