"""What goes to the Hub of a bundle, byte for byte, and what is not let out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jepack import bundle as bundles
from jepack.bundle import MANIFEST, SIGNATURE, Bundle, card, privacy, signing, standing
from jepack.errors import ArtifactError, GateError
from jepack.files import link_or_copy, sha256_of


@dataclass(frozen=True)
class Publication:
    """The files of one commit: paths where the bundle's own bytes go out, bytes where they differ."""

    manifest: dict[str, Any]
    files: Mapping[str, Path | bytes]  # the manifest included
    rewritten: tuple[str, ...]  # names whose content differs from the bundle's on disk

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {name: size_of(content) for name, content in sorted(self.files.items())}


def prepare(bundle: Bundle, repo: str, work: Path, *, key: Path | None = None) -> Publication:
    """What `push` sends: the bundle without this machine's paths and the names of its data files.

    Weights, preprocessing and so the fingerprints are the bundle's own; the manifest's digests are
    those of the files sent. `work` is a folder for the copies that must differ. `key` signs what is
    sent; without it the bundle's own signature goes along where it still holds. Raises ArtifactError
    when a file still names a folder of this machine.
    """
    files: dict[str, Path | bytes] = {}
    for name in bundle.manifest["files"]:
        files[name] = public_content(bundle.folder / name, work / name)
    manifest = public_manifest(bundle.manifest)
    if card.is_ours(bundle.folder):
        made, own_card = card.make(bundle.folder, manifest, repo=repo).encode(), "README.md"
        same_card = own_card in files and (bundle.folder / own_card).read_bytes() == made
        files[own_card] = bundle.folder / own_card if same_card else made
    rewritten = tuple(sorted(n for n, c in files.items() if c != bundle.folder / n))
    known = bundle.manifest["files"]
    manifest["files"] = {
        name: entry_of(content) if name in rewritten else known[name]
        for name, content in sorted(files.items())
    }
    if bundles.fingerprints(manifest) != bundle.fingerprints:
        raise ArtifactError(f"{bundle.folder}: publishing would change the fingerprints")
    files[MANIFEST] = json_bytes(manifest)
    refuse_paths(bundle, files)
    own = bundle.folder / SIGNATURE
    if key is not None:
        files[SIGNATURE] = signed(files, work / "signed", key)
    elif own.is_file() and not rewritten and files[MANIFEST] == manifest_on_disk(bundle):
        files[SIGNATURE] = own
    return Publication(manifest, files, rewritten)


def signed(files: Mapping[str, Path | bytes], folder: Path, key: Path) -> bytes:
    """The signature of these files, laid out below `folder` as they will be published."""
    for name, content in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            link_or_copy(str(content), str(target))
    return signing.signature_of(folder, key)


def manifest_on_disk(bundle: Bundle) -> bytes:
    return (bundle.folder / MANIFEST).read_bytes()


def public_content(path: Path, work: Path) -> Path | bytes:
    """A file as it may be published: its path when nothing has to go."""
    if path.suffix == ".json":
        value = json.loads(path.read_text())
        public = privacy.without_paths(value)
        return path if public == value else json_bytes(public)
    if path.suffix == ".pt":
        work.parent.mkdir(parents=True, exist_ok=True)
        return work if privacy.strip_torchscript(path, work) else path
    return path


def public_manifest(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with base names for paths, and a count for the list of held-out files."""
    public: dict[str, Any] = privacy.without_paths(manifest)
    data = public.get("provenance", {}).get("data")
    if isinstance(data, dict) and isinstance(data.get("held_out"), list):
        data["held_out_images"] = len(data.pop("held_out"))
    return public


def json_bytes(value: Any) -> bytes:
    """As jepack.files.write_json writes it."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def refuse_paths(bundle: Bundle, files: Mapping[str, Path | bytes]) -> None:
    data = bundle.manifest.get("provenance", {}).get("data")
    images = data.get("folder") if isinstance(data, dict) else data
    folders = privacy.machine_folders(bundle.folder, *([images] if images else []))
    hits_by_file = {name: privacy.folders_in(content, folders) for name, content in files.items()}
    if leaks := {name: hits for name, hits in hits_by_file.items() if hits}:
        listing = "\n".join(f"  - {name}: {', '.join(hits)}" for name, hits in leaks.items())
        raise ArtifactError(
            f"{bundle.folder}: these files name folders of this machine, so nothing is published.\n"
            f"{listing}\nMake exports again (jepack export {bundle.folder}); mend texts by hand."
        )


def entry_of(content: Path | bytes) -> dict[str, Any]:
    """A file's line in the manifest."""
    if isinstance(content, bytes):
        return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    return {"sha256": sha256_of(content), "bytes": size_of(content)}


def size_of(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def refuse_overridden(bundle: Bundle, force: bool) -> None:
    """Raises GateError when the bundle holds what the gate refused and `force` is not set."""
    overridden = standing.forced(bundle)
    if not overridden or force:
        return
    reasons = "\n".join(
        f"  - {what}: {reason}"
        for what, reasons in overridden.items()
        for reason in reasons or ["no reason is recorded"]
    )
    whole = "encoder" in overridden
    mend = (
        "Train and export it again."
        if whole
        else f"Leave them out: jepack export {bundle.folder} --formats {formats_of(overridden)}, no --force."
    )
    what = "this encoder" if whole else "exports of this bundle"
    raise GateError(
        f"{bundle.folder}: the gate refused {what} and was overridden.\n{reasons}\n{mend} "
        "To publish all the same (the card says so): --force"
    )


def formats_of(files: Mapping[str, Any]) -> str:
    """The names by which `jepack export` knows these files."""
    known = {
        "onnx/model_fp16.onnx": "fp16",
        "onnx/model_quantized.onnx": "int8",
        "model.pt2": "pt2",
    }
    known |= {"onnx/model.onnx": "onnx", "torchscript/model.pt": "torchscript"}
    return ",".join(known.get(file, file) for file in files)
