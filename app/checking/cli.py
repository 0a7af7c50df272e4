"""`jepack check`: what of a data set should be looked at before anybody trains on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from app.checking import page
from app.checking.report import Finding, Report
from app.checking.run import check as check_index
from app.engine import at_endpoint, check_same_space
from app.engines import located, open_index
from app.opening import only_index_beside
from app.store import METADATA, read_info
from jepack.bundle import MANIFEST, Bundle
from jepack.bundle import load as load_bundle
from jepack.client import DEFAULT_URL
from jepack.errors import ArtifactError, JepackError
from jepack.names import marked, shown
from jepack.terminal import bar as progress_bar
from jepack.terminal import options

FOUND = 11  # exit code
FIRST = 5  # cases of a finding that are printed


def check(
    path: Annotated[
        str,
        typer.Argument(
            metavar="INDEX|BUNDLE",
            help="Index folder or address of Milvus, or a bundle with its index beside it.",
        ),
    ],
    html: Annotated[
        Path | None,
        typer.Option(
            help="Write a report with pictures, one file.", callback=options.file_to_write
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look for copies, leaks, suspect labels, unusual images and bad pictures in an index.

    Nothing is changed. Exit code 0 when nothing was found, 11 when something should be looked at.

    Examples:
      jepack check runs/photos/index --html check.html
      jepack check runs/photos/bundle --json
    """
    folder, bundle = opened(located(path))
    store = open_index(folder)
    console = Console(stderr=True)
    with progress_bar(console, transient=True) as bar:
        task = bar.add_task("Checking", total=100)

        def tell(what: str, share: float) -> None:
            bar.update(task, description=f"Checking: {what}", completed=round(100 * share))

        report = check_index(store, bundle, tell)
    if html is not None:
        page.write(html, report, store)
    if as_json:
        print(json.dumps({"index_folder": str(folder), **report.to_json()}))
    else:
        show(report, Console())
        if html is not None:
            Console().print(f"Pictures: {marked(html)}", highlight=False, soft_wrap=True)
    if report.faults:
        raise typer.Exit(FOUND)


def opened(path: Path) -> tuple[Path, Bundle | None]:
    """The index folder, and the bundle of its encoder where that is at hand."""
    if (path / MANIFEST).is_file():
        engine = at_endpoint(DEFAULT_URL, bundle=path)
        folder = only_index_beside(path, engine)
        check_same_space(engine, read_info(folder), folder)
        return folder, engine.bundle
    if path.is_dir() and not (path / METADATA).is_file():
        raise ArtifactError(
            f"{path}: neither an index ({METADATA}) nor a bundle ({MANIFEST}). Images are checked in an "
            f"index: jepack index {path} --bundle BUNDLE --out INDEX, then jepack check INDEX"
        )
    info = read_info(path)
    if info.bundle_folder is not None:
        try:
            bundle = load_bundle(info.bundle_folder)
        except JepackError:  # gone, or another by now: its null and its split are not known then
            return path, None
        return path, bundle if bundle.fingerprints[info.output] == info.fingerprint else None
    return path, None


def show(report: Report, console: Console) -> None:
    console.print(
        shown(report.verdict), style="bold", markup=False, highlight=False, soft_wrap=True
    )
    for finding in report.findings:
        console.print()
        console.print(
            shown(finding.headline), style="cyan", markup=False, highlight=False, soft_wrap=True
        )
        for line in lines(finding):
            console.print(f"  {shown(line)}", markup=False, highlight=False, soft_wrap=True)


def lines(finding: Finding) -> list[str]:
    """The first cases, and what they cost."""
    told = [one for one in (finding.skipped, finding.price) if one]
    told += [f"{', '.join(case.ids[:3])}: {case.why}" for case in finding.cases[:FIRST]]
    more = len(finding.cases) - FIRST
    return [*told, f"and {more:,} more"] if more > 0 else told
