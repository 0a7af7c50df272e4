"""The encoder bundle: one flat folder that is also one Hub repository. No torch here.

Written to a temporary name and renamed; every load checks the manifest. Section 3 of the design lists
the files; `manifest.json` holds their SHA-256, the fingerprints and the provenance.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from jepack.bundle import origin
from jepack.bundle.hardening import (
    golden_problems,
    json_problems,
    manifest_problems,
    onnx_problems,
    projector_problems,
    read_json,
    safetensors_problems,
)
from jepack.bundle.loaders import loader_files
from jepack.decoding import Preprocessing
from jepack.errors import ArtifactError, ConfigError
from jepack.files import canonical_json, new_folder, sha256_of, write_json

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


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing.from_json(self.manifest["preprocessing"])

    @property
    def dimensions(self) -> dict[str, int]:
        """Width of each output, e.g. {"embedding": 512, "projection": 64}."""
        return dict(self.manifest["dimensions"])

    @property
    def fingerprints(self) -> dict[str, str]:
        """Identity of each output's space; vectors of different fingerprints never mix."""
        return dict(self.manifest["fingerprints"])

    @property
    def default_output(self) -> str:
        """The output that search should use; `retrieval` in the manifest says on what evidence."""
        return str(self.manifest.get("default_output", OUTPUTS[0]))

    @property
    def promises(self) -> dict[str, bool]:
        """What the projection's nearness to N(0, I) allows, as export measured it; {} before it did.

        `drift`: a batch's statistic may be compared with its null. `atypicality`: a squared norm may
        be read as a chi-square p-value. A missing promise is not given.
        """
        return dict(self.manifest.get("promises") or {})

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    def golden(self) -> dict[str, npt.NDArray[Any]]:
        """`images` [N, H, W, C] uint8, and the `embedding`, `projection` PyTorch gave for them."""
        return load_file(self.folder / "golden.safetensors")

    def config(self) -> dict[str, Any]:
        """timm's config.json, with our block under "jepack"."""
        return dict(json.loads((self.folder / "config.json").read_text()))

    def isotropy(self) -> dict[str, Any]:
        """What training and export measured, see section 5 of the design; {} before any did."""
        return dict(json.loads((self.folder / "isotropy.json").read_text()))

    def onnx(self) -> Path:
        """The float32 ONNX graph; ArtifactError tells how to make it."""
        path = self.folder / "onnx" / "model.onnx"
        if not path.is_file():
            raise ArtifactError(
                f"{self.folder}: no ONNX export. Make it: jepack export {self.folder}"
            )
        return path


def load(folder: Path | str) -> Bundle:
    """Open a bundle and check every file against its manifest. Raises ArtifactError."""
    folder = Path(folder)
    problems = verify(folder)
    if problems:
        listing = "\n".join(f"  - {problem}" for problem in problems)
        raise ArtifactError(f"{folder}: not a sound bundle.\n{listing}\n{origin.mend(folder)}")
    return Bundle(folder, read_manifest(folder))


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


@contextmanager
def writing(folder: Path | str, manifest: dict[str, Any]) -> Iterator[Path]:
    """Yields a temporary folder to fill; on leaving, completes the manifest and renames it to `folder`.

    `manifest` brings name, preprocessing, dimensions, default_output, retrieval, provenance. What stood at
    `folder` is replaced only when everything is written. The files of other libraries' loaders are
    added from config.json and the preprocessing (loaders.py).
    """
    folder = Path(folder)
    refuse_other_folder(folder)
    with new_folder(folder) as stage:
        yield stage
        write_loader_files(stage, manifest)
        write_manifest(stage, manifest)


def refuse_other_folder(folder: Path) -> None:
    """ArtifactError when a bundle that is to be written would replace a folder of another kind."""
    if folder.is_dir() and not (folder / MANIFEST).is_file() and any(folder.iterdir()):
        raise ArtifactError(
            f"{folder}: not empty and not a bundle, so it is left alone. Choose another --out."
        )


@contextmanager
def editing(bundle: Bundle, changes: dict[str, Any] | None = None) -> Iterator[Path]:
    """Yields a copy of the bundle (hard links) to change; renamed over it on leaving.

    Replace files by name, never write into them: unlink first. `changes` may be filled inside the
    block; its keys replace the manifest's. A bundle that was pulled says from then on that it is no
    longer that revision. Raises ArtifactError for one in the Hub's cache, which is not ours to change.
    """
    refuse_cached(bundle.folder)
    with new_folder(bundle.folder, start_from=bundle.folder) as stage:
        (stage / MANIFEST).unlink()
        (stage / SIGNATURE).unlink(missing_ok=True)  # it was of the bundle as it was
        yield stage
        write_manifest(stage, origin.marked(stage, {**bundle.manifest, **(changes or {})}))


def refuse_cached(folder: Path) -> None:
    """ArtifactError when a bundle that is to be changed lies in the Hub's cache."""
    if cached := origin.hub_cache(folder):
        raise ArtifactError(
            f"{folder}: lies in the Hub's cache, whose files other programs share. Take a copy of your "
            f"own: jepack pull {cached.address} --out FOLDER"
        )


def write_loader_files(stage: Path, manifest: dict[str, Any]) -> None:
    """What transformers and sentence-transformers need beside timm's config.json."""
    config = stage / "config.json"
    if not config.is_file():
        return  # write_manifest says what is missing
    preprocessing = Preprocessing.from_json(manifest["preprocessing"])
    for name, value in loader_files(json.loads(config.read_text()), preprocessing).items():
        if not (stage / name).exists():
            write_json(stage / name, value)


def write_manifest(stage: Path, manifest: dict[str, Any]) -> None:
    files = {}
    for path in files_of(stage):
        name = path.relative_to(stage).as_posix()
        if path.suffix not in SUFFIXES and name != "LICENSE":
            raise ArtifactError(f"{name}: a bundle holds only {', '.join(SUFFIXES)} files")
        files[name] = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
    missing = [name for name in REQUIRED if name not in files]
    if missing:
        raise ArtifactError(f"a bundle needs {', '.join(missing)}")
    manifest = {
        **manifest,
        "schema": SCHEMA,
        "created": manifest.get("created")
        or datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "files": files,
    }
    write_json(stage / MANIFEST, {**manifest, "fingerprints": fingerprints(manifest)})


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


def cosine(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Row-wise cosine similarity of two [N, D] arrays, [N]."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.maximum(scale, 1e-300)
