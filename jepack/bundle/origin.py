"""Where a bundle came from, and what a reader of it must be told. No huggingface_hub here.

`jepack pull` notes its source beside the files. A folder inside the Hub's own cache says it by its name.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jepack.files import sha256_of

# Hidden from the manifest: the folder stays byte for byte what was published.
SOURCE = Path(".cache/jepack/source.json")
MANIFEST = "manifest.json"
REVISION = re.compile(r"[0-9a-f]{40}")
REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
CACHE_FOLDER = re.compile(r"models--([\w.-]+?)--([\w.-]+)", re.ASCII)


@dataclass(frozen=True)
class Source:
    """Where a pulled bundle came from; kept in `.cache/jepack/source.json` of its folder."""

    repo: str
    revision: str  # 40 hex digits
    endpoint: str
    pulled: str  # UTC
    manifest: str = ""  # SHA-256 of manifest.json as it was pulled; records of before lack it

    @property
    def address(self) -> str:
        return f"{self.repo}@{self.revision}"


def source_of(folder: Path) -> Source | None:
    """Where the bundle in this folder was pulled from; None when it was not, or nobody can tell."""
    try:
        source = Source(**json.loads((folder / SOURCE).read_text()))
        known = REPO.fullmatch(source.repo) and REVISION.fullmatch(source.revision)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return source if known else None


def edited(folder: Path, source: Source) -> bool:
    """Was the bundle changed (exported, probed ...) after it was pulled?

    Records of before name no digest; there the manifest was written before the record, unless edited.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return True
    if source.manifest:
        return sha256_of(manifest) != source.manifest
    return manifest.stat().st_mtime_ns > (folder / SOURCE).stat().st_mtime_ns


def marked(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a bundle that is being edited in `folder`: it tells what it was pulled as."""
    source = source_of(folder)
    if source is None:
        return manifest
    provenance = {**(manifest.get("provenance") or {}), "edited_after_pull": source.address}
    return {**manifest, "provenance": provenance}


def told(folder: Path) -> str:
    """The source of a bundle in a few words; empty for one that was made here."""
    source, cached = source_of(folder), hub_cache(folder)
    if source is not None:
        return source.address + (", edited here since" if edited(folder, source) else "")
    return f"{cached.address}, in the Hub's cache" if cached else ""


@dataclass(frozen=True)
class CachedSnapshot:
    """A revision as huggingface_hub keeps it: links in `snapshots/REVISION` to files in `blobs`."""

    repo: str
    revision: str
    blobs: Path

    @property
    def address(self) -> str:
        return f"{self.repo}@{self.revision}"

    def holds(self, path: Path) -> bool:
        """Does this link lead to a file of the same repository's store?"""
        real = path.resolve()
        return real.parent == self.blobs and real.is_file()


def hub_cache(folder: Path) -> CachedSnapshot | None:
    """The snapshot that `folder` is, None when it lies elsewhere."""
    folder = folder.resolve()
    if folder.parent.name != "snapshots":
        return None
    name = CACHE_FOLDER.fullmatch(folder.parent.parent.name)
    if name is None or not REVISION.fullmatch(folder.name):
        return None
    return CachedSnapshot("/".join(name.groups()), folder.name, folder.parent.parent / "blobs")


def mend(folder: Path) -> str:
    """What to do about an unsound bundle, by where it came from."""
    source, cached = source_of(folder), hub_cache(folder)
    if cached is not None:
        return f"Fetch it whole: jepack pull {cached.address} --out FOLDER"
    if source is not None:
        return f"Fetch it again: jepack pull {source.address} --out {folder} --force"
    if any(path.is_symlink() for path in folder.glob("*")):
        return (
            "Links are followed in the Hub's own cache only. Take plain files: jepack pull USER/REPO "
            "--out FOLDER, or hf download USER/REPO --local-dir FOLDER, or cp -rL"
        )
    if not (folder / MANIFEST).exists():
        return (
            "Name a bundle: the folder with a manifest.json that `jepack train` or `import` wrote"
        )
    return "Restore it from where it came, or make it again: jepack train"
