"""Fetching a bundle: looked at before it is downloaded, verified before it takes its name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.utils import tqdm

from jepack import bundle as bundles
from jepack.bundle import (
    MANIFEST,
    MAX_SIGNATURE,
    REQUIRED,
    REVISION,
    SIGNATURE,
    SOURCE,
    SUFFIXES,
    Bundle,
    Source,
    edited,
    signing,
    source_of,
)
from jepack.disk import existing_parent
from jepack.errors import ArtifactError, ConfigError
from jepack.files import new_folder, sha256_of, write_json
from jepack.hub.patience import Patience, Say, persist
from jepack.hub.publishing import listing

MAX_FILES = 1000
MAX_MANIFEST_BYTES = 16_000_000
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Offer:
    """What a revision holds, by the Hub's listing: names and sizes in bytes."""

    repo: str
    revision: str
    sizes: dict[str, int]


def resolve(repo: str, revision: str | None, *, api: HfApi, patience: Patience, say: Say) -> str:
    """The 40-hex commit that a branch, tag or commit names now; None is the main branch."""
    what = f"{repo}@{revision or 'main'}"
    info = persist(
        lambda: api.model_info(repo, revision=revision or "main"), what, patience=patience, say=say
    )
    commit = str(info.sha)
    if not REVISION.fullmatch(commit):
        raise ArtifactError(f"{what}: the Hub names no commit for it, but {commit!r}")
    if revision and REVISION.fullmatch(revision) and commit != revision:
        raise ArtifactError(f"{what}: the Hub answers with another commit, {commit}")
    return commit


def offer_of(repo: str, revision: str, *, api: HfApi, patience: Patience, say: Say) -> Offer:
    """The listing of a revision, or ArtifactError when it holds what no bundle may hold.

    Nothing but the listing is downloaded for this.
    """
    entries = persist(
        lambda: listing(api, repo, revision), f"{repo}@{revision}", patience=patience, say=say
    )
    sizes = {
        name: int(entry.size) for name, entry in entries.items() if not name.startswith(".git")
    }
    problems = [f"{name}: {why}" for name in sorted(sizes) if (why := refused(name))]
    problems += [
        f"{name}: missing" for name in (MANIFEST, *REQUIRED) if name not in sizes and not problems
    ]
    if len(sizes) > MAX_FILES:
        problems = [f"{len(sizes)} files, a bundle has at most {MAX_FILES}"]
    for name, most in ((MANIFEST, MAX_MANIFEST_BYTES), (SIGNATURE, MAX_SIGNATURE)):
        if sizes.get(name, 0) > most:
            problems.append(f"{name}: {sizes[name]} bytes, at most {most}")
    if problems:
        raise unsound(repo, revision, problems, "Nothing was downloaded.")
    return Offer(repo, revision, sizes)


def refused(name: str) -> str:
    """Why a file of this name has no place in a bundle; empty when it has."""
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\\" in name or not name.isprintable():
        return "not a plain relative name"
    if Path(name).suffix not in SUFFIXES and name not in ("LICENSE", SIGNATURE):
        return f"only {', '.join(SUFFIXES)} files are accepted"
    return ""


def fetch(
    offer: Offer,
    out: Path,
    *,
    api: HfApi,
    force: bool = False,
    public_key: Path | None = None,
    fingerprint: str | None = None,
    patience: Patience | None = None,
    say: Say = lambda text: None,
    advance: Advance = lambda count: None,
) -> Bundle:
    """Download into a temporary folder beside `out`, verify, and only then take the name `out`.

    Whatever fails, a folder already at `out` stays as it was. With `public_key` a bundle that this key
    did not sign is refused, with `fingerprint` one of another embedding space. `advance` hears of downloaded
    bytes.
    """
    patience = patience or Patience()
    refuse_target(offer, out, force)
    if public_key is not None and SIGNATURE not in offer.sizes:
        raise unsound(
            offer.repo,
            offer.revision,
            [f"not signed ({SIGNATURE} is missing)"],
            "Nothing was downloaded.",
        )
    enough_room(offer, out)
    with new_folder(out) as stage:
        download(offer, MANIFEST, stage, api, patience, say, advance)
        compare(offer, stage)
        if fingerprint is not None:
            told = bundles.read_manifest(stage)["fingerprints"]
            check_fingerprint(f"{offer.repo}@{offer.revision}", told, fingerprint)
        for name in sorted(set(offer.sizes) - {MANIFEST}):
            download(offer, name, stage, api, patience, say, advance)
        shutil.rmtree(stage / ".cache")  # huggingface_hub's notes on the download
        if problems := bundles.verify(stage):
            kept = f"{out} is as it was." if out.exists() else "Nothing was kept."
            raise unsound(offer.repo, offer.revision, problems, kept)
        if public_key is not None:
            signing.check(bundles.load(stage), public_key)
        source = Source(
            repo=offer.repo, revision=offer.revision, endpoint=api.endpoint,
            pulled=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            manifest=sha256_of(stage / MANIFEST),
        )  # fmt: skip
        (stage / SOURCE).parent.mkdir(parents=True)
        write_json(stage / SOURCE, asdict(source))
    return bundles.load(out)


def download(
    offer: Offer,
    name: str,
    stage: Path,
    api: HfApi,
    patience: Patience,
    say: Say,
    advance: Advance,
) -> None:
    """One file; a broken transfer goes on where it stopped."""

    class Bar(tqdm):  # type: ignore[misc]  # huggingface_hub reports progress to a tqdm class only
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            advance(int(n or 0))

    persist(
        lambda: hf_hub_download(
            offer.repo,
            name,
            revision=offer.revision,
            local_dir=stage,
            endpoint=api.endpoint,
            token=api.token,
            tqdm_class=Bar,
        ),
        f"{offer.repo}: {name}",
        patience=patience,
        say=say,
    )
    received = (stage / name).stat().st_size
    if received != offer.sizes[name]:
        raise unsound(
            offer.repo,
            offer.revision,
            [f"{name}: {received} bytes, listed with {offer.sizes[name]}"],
            "",
        )


def compare(offer: Offer, stage: Path) -> None:
    """The manifest against the listing, before the large files are fetched."""
    manifest = bundles.read_manifest(stage)
    entries = manifest["files"] if isinstance(manifest["files"], dict) else {}
    listed = {
        name: entry.get("bytes") if isinstance(entry, dict) else "no size"
        for name, entry in entries.items()
    }
    problems = [
        f"{name}: {offer.sizes.get(name, 'not')} bytes there, the manifest says {size}"
        for name, size in sorted(listed.items())
        if offer.sizes.get(name) != size
    ]
    strangers = set(offer.sizes) - set(listed) - {MANIFEST, SIGNATURE}
    problems += [f"{name}: not listed in the manifest" for name in sorted(strangers)]
    if problems:
        raise unsound(offer.repo, offer.revision, problems, "Only the manifest was downloaded.")


def check_fingerprint(what: str, fingerprints: dict[str, str], wanted: str) -> None:
    """Raise ArtifactError unless an output of `what` is of this embedding space."""
    if wanted not in fingerprints.values():
        told = ", ".join(f"{output} {text}" for output, text in fingerprints.items())
        raise ArtifactError(
            f"{what} is of another embedding space ({told}) than the one asked for, {wanted}. "
            "Embeddings of two spaces cannot be compared: name the revision that has it"
        )


def unsound(repo: str, revision: str, problems: list[str], after: str) -> ArtifactError:
    shown = [*problems[:12], *([f"and {len(problems) - 12} more"] if len(problems) > 12 else [])]
    text = "\n".join(f"  - {problem}" for problem in shown)
    return ArtifactError(f"{repo}@{revision}: not a sound bundle.\n{text}\n{after}".rstrip())


def already_there(repo: str, revision: str, out: Path) -> bool:
    """Does `out` hold that very revision, whole and as it was pulled?"""
    source = source_of(out)
    if source is None or (source.repo, source.revision) != (repo, revision):
        return False
    return not edited(out, source) and not bundles.verify(out)


def refuse_target(offer: Offer, out: Path, force: bool) -> None:
    """A pull replaces what was pulled from the same repository, or nothing at all."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST).is_file():
        raise ConfigError(f"{out}: not empty and not a bundle, so it is left alone. Choose --out.")
    source = source_of(out)
    if source and not force and edited(out, source) and not bundles.verify(out):
        raise ConfigError(
            f"{out} was pulled as {source.address} and edited here since (exported, probed ...): it is "
            "no longer that revision, and pulling over it would lose that. Choose another --out, or "
            "replace it: --force"
        )
    if (source is None or source.repo != offer.repo) and not force:
        came = f"pulled from {source.repo}" if source else "not pulled from the Hub"
        raise ConfigError(
            f"{out} holds another bundle ({came}). Choose another --out, or replace it: --force"
        )


def enough_room(offer: Offer, out: Path) -> None:
    needed, free = sum(offer.sizes.values()), shutil.disk_usage(existing_parent(out.parent)).free
    if needed > free:
        raise ArtifactError(
            f"{offer.repo} needs {needed / 1e6:.0f} MB, {out.parent} has {free / 1e6:.0f} MB free. "
            "Free some space, or choose another --out."
        )
