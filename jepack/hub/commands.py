"""`jepack push` and `jepack pull`: bundles on the Hugging Face Hub, one commit per publication."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from huggingface_hub import HfApi, get_token
from huggingface_hub.utils import disable_progress_bars
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from jepack import bundle as bundles
from jepack.bundle import REVISION, signing, standing
from jepack.errors import ConfigError
from jepack.hub import fetching
from jepack.hub.fetching import already_there, fetch, offer_of
from jepack.hub.patience import LOGIN, Patience
from jepack.hub.preparing import Publication, prepare, refuse_overridden
from jepack.hub.publishing import publish
from jepack.names import marked, marked_lines
from jepack.terminal import options


def push(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle to publish.")],
    repo: Annotated[str, typer.Argument(metavar="USER/REPO", help="Repository on the Hub.")],
    public: Annotated[bool, typer.Option("--public", help="Anyone may see it.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List files and sizes, ask nothing of the Hub.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Publish although the gate was overridden.")
    ] = False,
    message: Annotated[str | None, typer.Option("-m", "--message", help="Of the commit.")] = None,
    key: Annotated[
        Path | None, typer.Option(help="Private key (PEM) that signs what is published.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Publish a bundle to the Hugging Face Hub in one commit; private unless --public.

    The token is the one of `hf auth login` or HF_TOKEN. Paths of this machine and the names of held-out
    files are left out; weights and fingerprints are the same.

    Example: jepack push runs/photos/bundle ann/photos-encoder --dry-run
    """
    check_name(repo)
    console = Console(stderr=True)
    bundle = bundles.load(folder)
    refuse_overridden(bundle, force)
    with TemporaryDirectory(prefix="jepack-push-") as work:
        publication = prepare(bundle, repo, Path(work), key=key)
        if not as_json:
            list_files(bundle, publication, repo, public)
        if dry_run:
            told = {"repo": repo, "dry_run": True, **facts(publication)}
            report(as_json, told | {"notes": standing.notes(bundle)}, "")
            return
        if get_token() is None:
            raise ConfigError(f"no token for the Hub. {LOGIN} write to {repo}.")
        with working(console, f"Publishing to {repo}"):
            done = publish(
                publication, repo, api=HfApi(), public=public, message=message, say=teller(console)
            )
    after = "Published" if done.changed else "Already published"
    report(
        as_json,
        {"repo": repo, "revision": done.revision, "url": done.url, "changed": done.changed}
        | facts(publication)
        | {"notes": standing.notes(bundle)},
        f"[green]{after}:[/] {done.url}\nrevision {done.revision}\n"
        f"Fetch it: jepack pull {repo}@{done.revision} --out FOLDER",
    )


def pull(
    address: Annotated[
        str, typer.Argument(metavar="USER/REPO[@REVISION]", help="A commit, branch or tag.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.", callback=options.folder_to_write)],
    force: Annotated[
        bool, typer.Option("--force", help="Replace a bundle at --out that came from elsewhere.")
    ] = False,
    public_key: Annotated[
        Path | None, typer.Option(help="Refuse what this key (PEM) did not sign.")
    ] = None,
    fingerprint: Annotated[
        str | None,
        typer.Option(help="Refuse a bundle none of whose outputs is of this embedding space."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fetch a bundle from the Hub at one commit, verify it, and write it to --out.

    A branch or tag is turned into its 40-digit commit, which is said and recorded. What holds other
    files than a bundle may hold is refused before the download.

    Example: jepack pull ann/photos-encoder@main --out bundles/photos
    """
    repo, _, asked = address.partition("@")
    check_name(repo)
    console, api, patience = Console(stderr=True), HfApi(), Patience()
    say = teller(console)
    revision = fetching.resolve(repo, asked or None, api=api, patience=patience, say=say)
    if not REVISION.fullmatch(asked):
        say(f"{repo}@{asked or 'main'} is commit {revision} now")
    there = already_there(repo, revision, out)
    if not there:
        offer = offer_of(repo, revision, api=api, patience=patience, say=say)
        with downloading(console, sum(offer.sizes.values())) as advance:
            fetch(
                offer, out, api=api, force=force, public_key=public_key, fingerprint=fingerprint,
                patience=patience, say=say, advance=advance,
            )  # fmt: skip
    bundle = bundles.load(out)
    if there and fingerprint is not None:
        fetching.check_fingerprint(f"{repo}@{revision}", bundle.fingerprints, fingerprint)
    if there and public_key is not None:
        signing.check(bundle, public_key)
    report(
        as_json,
        {
            "repo": repo,
            "revision": revision,
            "bundle": str(out),
            "changed": not there,
            "fingerprints": bundle.fingerprints,
        },
        f"[green]{'Already there' if there else 'Verified'}:[/] {marked(out)}\n"
        f"revision {revision}, embedding {bundle.fingerprints['embedding']}, "
        f"projection {bundle.fingerprints['projection']}\n"
        f"Again, exactly: jepack pull {repo}@{revision} --out {marked(out)}",
    )


def check_name(repo: str) -> None:
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise ConfigError(f"a repository is USER/REPO, found {repo!r}")


def facts(publication: Publication) -> dict[str, Any]:
    return {
        "files": publication.sizes,
        "bytes": sum(publication.sizes.values()),
        "rewritten": list(publication.rewritten),
        "fingerprints": publication.manifest["fingerprints"],
    }


def list_files(bundle: bundles.Bundle, publication: Publication, repo: str, public: bool) -> None:
    console = Console()
    seen = "public" if public else "private"
    table = Table(title=f"{marked(bundle.name)} -> {repo} ({seen})", title_justify="left", box=None)
    table.add_column("file")
    table.add_column("MB", justify="right")
    table.add_column("")
    for name, size in publication.sizes.items():
        note = "without this machine's paths" if name in publication.rewritten else ""
        table.add_row(marked(name), f"{size / 1e6:.3f}", note)
    table.add_row("total", f"{sum(publication.sizes.values()) / 1e6:.3f}", "")
    console.print(table)
    if (bundle.folder / bundles.SIGNATURE).exists() and bundles.SIGNATURE not in publication.files:
        console.print(
            "[yellow]warning:[/] the bundle's signature does not fit what is published, so it stays "
            "here. Sign what is published: --key KEY",
            highlight=False,
            soft_wrap=True,
        )
    for note in standing.notes(bundle):
        console.print(f"[yellow]note:[/] {marked_lines(note)}", highlight=False, soft_wrap=True)
    if "gate" not in bundle.manifest:
        console.print(
            f"[yellow]warning:[/] no gate has judged this encoder yet: jepack export {marked(bundle.folder)}",
            highlight=False,
            soft_wrap=True,
        )


def report(as_json: bool, value: dict[str, Any], text: str) -> None:
    if as_json:
        print(json.dumps(value))
    elif text:
        Console().print(text, highlight=False, soft_wrap=True)


def teller(console: Console) -> Any:
    return lambda text: console.print(marked_lines(text), highlight=False, soft_wrap=True)


@contextmanager
def working(console: Console, text: str) -> Iterator[None]:
    """huggingface_hub draws the upload's own bars on a terminal; elsewhere one line must do."""
    if not sys.stderr.isatty():
        disable_progress_bars()
        console.print(f"{text} ...", highlight=False)
    yield


@contextmanager
def downloading(console: Console, total_bytes: int) -> Iterator[Any]:
    bar = Progress(
        TextColumn("[bold]download[/]"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task("download", total=total_bytes)
    with bar:
        yield lambda count: bar.advance(task, count)
