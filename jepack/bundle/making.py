"""Bundles written and changed: to a temporary name, completed by a manifest, renamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jepack.bundle import origin
from jepack.bundle.contents import (
    MANIFEST,
    REQUIRED,
    SCHEMA,
    SIGNATURE,
    SUFFIXES,
    files_of,
    fingerprints,
)
from jepack.bundle.folder import Bundle
from jepack.bundle.loaders import loader_files
from jepack.decoding import Preprocessing
from jepack.errors import ArtifactError
from jepack.files import new_folder, sha256_of, write_json


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
