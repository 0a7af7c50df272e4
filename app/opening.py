"""What `jepack app PATH ...` opens: an index, or a bundle and the images it shall look at; or several."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from app.building import Plan, build, name_of
from app.desk import Desk
from app.engine import Engine, check_same_space, engine_for, in_process
from app.engines import open_index
from app.library import Library
from app.store import METADATA, IndexInfo, read_info
from app.updating import Kept
from jepack.bundle import MANIFEST
from jepack.bundle import load as load_bundle
from jepack.client.failures import UnreachableError
from jepack.disk import check_writable
from jepack.errors import ArtifactError, ConfigError, JepackError
from jepack.names import marked, tell
from jepack.sources import Source, find_images

BESIDE = "bundle"  # its folder's name, beside an index


def open_paths(
    paths: Sequence[Path], data: str | None, url: str | None, bundle: Path | None, console: Console
) -> Desk:
    """The desk of the first path, with those of the others beside it. Raises as `open_path` does, and
    ConfigError for what belongs to a single one."""
    if len(paths) == 1:
        return Desk(*open_path(paths[0], data, url, bundle, console))
    if url is not None or bundle is not None:
        raise ConfigError(
            f"{'--url' if url is not None else '--bundle'} names one encoder, and {len(paths)} paths are "
            "compared. Leave it out: each embeds with its own bundle, where that is at hand"
        )
    folders = [path.resolve() for path in paths]
    twice = next((path for path in paths if folders.count(path.resolve()) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"{twice}: named twice. Name the bundles or indexes that shall be compared"
        )
    bundles = [(path / MANIFEST).is_file() for path in paths]
    if data is not None and not any(bundles):
        raise ConfigError("--data goes with a bundle, and all of these are indexes. Leave it out")
    desks = [
        Desk(*open_path(path, data if own else None, None, None, console))
        for path, own in zip(paths, bundles, strict=True)
    ]
    return Desk(desks[0].library, desks[0].engine, desks[1:])


def open_path(
    path: Path, data: str | None, url: str | None, bundle: Path | None, console: Console
) -> tuple[Library, Engine]:
    """(library, engine) of an index or a bundle; of a bundle the index is built where there is none."""
    if (path / MANIFEST).is_file():
        if bundle is not None:
            raise ConfigError(f"{path}: is a bundle itself. Leave --bundle out, or name an index")
        engine = engine_for(url, path)
        folder = index_of(path, data, engine if url is None else in_process(path), console)
    elif (path / METADATA).is_file() or not path.is_dir():
        if data is not None:
            raise ConfigError(
                f"{path}: an index knows its images. --data goes with a bundle: "
                "jepack app BUNDLE --data DIR"
            )
        engine, folder = engine_of(read_info(path), url, bundle, path), path
    else:
        raise ArtifactError(
            f"{path}: neither an index ({METADATA}) nor a bundle ({MANIFEST}). Images are looked at with a "
            f"bundle: jepack app BUNDLE --data {path}"
        )
    library = Library(folder)
    check_same_space(engine, library.store.info, folder)
    return library, engine


def engine_of(
    info: IndexInfo, url: str | None, bundle: Path | None, folder: Path | None = None
) -> Engine:
    """As the command was told; else the bundle that the index was made with, where it is still there, or
    the same one beside the index in `folder`."""
    if url is not None or bundle is not None:
        return engine_for(url, bundle)
    places = [] if info.bundle_folder is None else [Path(info.bundle_folder)]
    if folder is not None:
        places.append(folder.absolute().parent / BESIDE)
    for place in places:
        with suppress(JepackError):
            if load_bundle(place).fingerprints[info.output] == info.fingerprint:
                return in_process(place)
    return engine_for(None, None)


@contextmanager
def naming_bundle(engine: Engine) -> Iterator[None]:
    """Where no endpoint answers: that none is needed with a bundle."""
    try:
        yield
    except UnreachableError as error:
        if engine.bundle is not None:
            raise
        raise UnreachableError(f"{error}. Or embed here, without one: --bundle BUNDLE") from error


def index_of(bundle: Path, data: str | None, engine: Engine, console: Console) -> Path:
    """The index of these images by this bundle, beside it; built where it is missing or not of today."""
    if data is None:
        return only_index_beside(bundle, engine)
    named = Source.of(data).absolute()
    notes: list[str] = []
    images = find_images(named, parts=True, notes=notes)
    tell(console, notes)
    assert engine.bundle is not None
    own = engine.bundle.fingerprints[engine.bundle.default_output]
    key = hashlib.sha256(f"{own}\0{named.path}".encode(errors="surrogateescape")).hexdigest()[:8]
    folder = bundle.absolute().parent / f"index-{name_of(named)}-{key}"
    plan = Plan(named=named, images=images)
    there = (folder / METADATA).is_file()
    if there and read_info(folder).asked == plan.digest():
        return folder
    check_writable(folder, replaced=True)
    kept = Kept(open_index(folder), named.base, prune=True) if there else None
    done, _ = build(folder, plan, engine, console, kept)
    console.print(
        f"[green]✓[/] {marked(folder)}: {done.info.count:,} images", highlight=False, soft_wrap=True
    )
    return folder


def only_index_beside(bundle: Path, engine: Engine) -> Path:
    """The one index in the bundle's parent folder that holds its vectors; one that is broken is passed over
    with a note. Raises ConfigError otherwise."""
    assert engine.bundle is not None
    spaces = set(engine.bundle.fingerprints.values())
    found, notes = [], []
    for path in sorted(bundle.absolute().parent.glob(f"*/{METADATA}")):
        try:
            if read_info(path.parent).fingerprint in spaces:
                found.append(path.parent)
        except ArtifactError as error:
            notes.append(f"passed over: {error}")
    tell(Console(stderr=True), notes)
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(
            f"{bundle}: no index of its vectors lies beside it. Name the images: "
            f"jepack app {bundle} --data DIR"
        )
    listed = ", ".join(path.name for path in found)
    raise ConfigError(
        f"{bundle}: {len(found)} indexes of its vectors lie beside it ({listed}). Open one: "
        f"jepack app {found[0]} --bundle {bundle}"
    )
