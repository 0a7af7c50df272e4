"""Publishing a bundle: what goes to the Hub, byte for byte, and the one commit that puts it there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from jepack import bundle as bundles
from jepack.bundle import MANIFEST, SIGNATURE, Bundle, card, privacy, signing, standing
from jepack.errors import ArtifactError, ConfigError, GateError, ServerError
from jepack.files import link_or_copy, sha256_of
from jepack.hub.patience import Patience, Say, persist

# A repository made by hand may hold these; anything else that we did not put there is not ours to delete.
OF_THE_HUB = {".gitattributes", ".gitignore", "README.md", "LICENSE"}


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


@dataclass(frozen=True)
class Published:
    repo: str
    revision: str  # 40 hex digits
    url: str
    changed: bool  # False: that very content was there already


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


def publish(
    publication: Publication,
    repo: str,
    *,
    api: HfApi,
    public: bool = False,
    message: str | None = None,
    patience: Patience | None = None,
    say: Say = lambda text: None,
) -> Published:
    """One commit that makes the repository equal to the publication. Safe to repeat after a fault.

    Every attempt looks at the repository afresh: files that arrived are not sent again, and a commit
    whose answer was lost is recognised, not repeated.
    """
    asked: dict[str, Any] = {"patience": patience or Patience(), "say": say}
    persist(lambda: ensure_repo(api, repo, public), repo, **asked)
    published = persist(
        lambda: commit(
            api, repo, publication, message or f"Publish {publication.manifest['name']}"
        ),
        repo,
        **asked,
    )
    persist(lambda: confirm(api, published, publication), repo, **asked)
    return published


def ensure_repo(api: HfApi, repo: str, public: bool) -> None:
    """The repository exists and is as visible as was asked for."""
    try:
        info = api.model_info(repo)
    except RepositoryNotFoundError:
        api.create_repo(repo, private=not public, exist_ok=True)
        info = api.model_info(repo)
    if not info.private and not public:
        raise ConfigError(
            f"{repo} is public and stays so. Say --public to publish there, or choose another name."
        )


def commit(api: HfApi, repo: str, publication: Publication, message: str) -> Published:
    """One attempt: compare, upload what is missing, commit on top of what was compared."""
    head = str(api.model_info(repo).sha)
    there = set(listing(api, repo, head))
    strangers = sorted(there - set(publication.files) - OF_THE_HUB)
    if strangers and MANIFEST not in there:
        raise ConfigError(
            f"{repo} holds {', '.join(strangers[:3])} and no {MANIFEST}: not a bundle, so it is left "
            "alone. Choose another name."
        )
    operations: list[Any] = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
        for name, content in sorted(publication.files.items())
    ]
    gone = there - set(publication.files) - {".gitattributes", ".gitignore"}
    operations += [CommitOperationDelete(path_in_repo=name) for name in sorted(gone)]
    made = api.create_commit(repo, operations, commit_message=message, parent_commit=head)
    return Published(repo, made.oid, str(made.commit_url), changed=made.oid != head)


def confirm(api: HfApi, published: Published, publication: Publication) -> None:
    """The Hub's own listing of the commit agrees with the manifest, hash by hash."""
    there = listing(api, published.repo, published.revision)
    for name, content in publication.files.items():
        listed = there.get(name)
        entry = publication.manifest["files"].get(name) or entry_of(content)
        if listed is None or listed.size != entry["bytes"] or not same(listed, content, entry):
            raise ServerError(
                f"{published.repo}@{published.revision}: {name} did not arrive as it was sent. "
                "Push again."
            )


def listing(api: HfApi, repo: str, revision: str) -> dict[str, RepoFile]:
    """The files of a revision by name."""
    tree = api.list_repo_tree(repo, revision=revision, recursive=True)
    return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}


def same(listed: RepoFile, content: Path | bytes, entry: dict[str, Any]) -> bool:
    """Large files are listed with their SHA-256, others with git's hash."""
    if listed.lfs is not None:
        return bool(listed.lfs.sha256 == entry["sha256"])
    data = content if isinstance(content, bytes) else content.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return bool(listed.blob_id == git)


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
