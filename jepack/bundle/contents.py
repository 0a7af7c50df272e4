"""What lies in a bundle's folder, and the identity of the spaces its outputs make."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from jepack.bundle import origin
from jepack.files import canonical_json

SCHEMA = 1
MANIFEST = origin.MANIFEST
SIGNATURE = "model.sig"  # signs the manifest too, so it is no line of it; see signing.py
MAX_SIGNATURE = 16_000_000  # bytes
OUTPUTS = ("embedding", "projection")
ONNX_NAMES = {"embedding": "pooler_output", "projection": "projection"}
REQUIRED = (
    "config.json",
    "model.safetensors",
    "projector.safetensors",
    "golden.safetensors",
    "isotropy.json",
)
SUFFIXES = (".json", ".safetensors", ".onnx", ".pt", ".pt2", ".md", ".yaml", ".png", ".txt")


def files_of(folder: Path) -> list[Path]:
    """Every file below `folder` that belongs to the bundle, except the manifest and its signature."""
    return sorted(
        path
        for path in folder.rglob("*")
        if (path.is_symlink() or not path.is_dir())
        and path not in (folder / MANIFEST, folder / SIGNATURE)
        and not path.relative_to(folder).as_posix().startswith((".cache/", ".git"))
    )


def fingerprints(manifest: dict[str, Any]) -> dict[str, str]:
    """hash(weights, preprocessing, output, dimension) of each output, 16 hex digits."""
    result = {}
    for output in OUTPUTS:
        weights = ["model.safetensors"] + (
            ["projector.safetensors"] if output == "projection" else []
        )
        identity = {
            "weights": [manifest["files"][name]["sha256"] for name in weights],
            "preprocessing": manifest["preprocessing"],
            "output": output,
            "dimension": manifest["dimensions"][output],
        }
        result[output] = hashlib.sha256(canonical_json(identity)).hexdigest()[:16]
    return result
