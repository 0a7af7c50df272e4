"""Publishing a bundle: the one commit that puts it on the Hub, made sure of."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from jepack.bundle import MANIFEST
from jepack.errors import ConfigError, ServerError
from jepack.hub.patience import Patience, Say, persist
from jepack.hub.preparing import Publication, entry_of

# A repository made by hand may hold these; anything else that we did not put there is not ours to delete.
OF_THE_HUB = {".gitattributes", ".gitignore", "README.md", "LICENSE"}


@dataclass(frozen=True)
class Published:
    repo: str
    revision: str  # 40 hex digits
    url: str
    changed: bool  # False: that very content was there already


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
