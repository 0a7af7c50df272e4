"""Finding images: folders, manifests, and files that hold many. No decoding here; see preprocess.py.

Whatever the source, an image is an `ImageFile` whose `read()` gives bytes that preprocess.decode takes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from jepack.decoding import SUFFIXES
from jepack.errors import DataError
from jepack.names import examples, kept
from jepack.sources import listing
from jepack.sources.folders import Notes, Walk, placing, split_by_name
from jepack.sources.image import ImageFile
from jepack.sources.manifest import read_manifest, with_columns
from jepack.sources.samples import WAY_OUT, is_packed, refuse_packed
from jepack.sources.source import Source, is_one
from jepack.sources.tables import own_manifest


def find_images(
    data: Source | Path | str,
    *,
    parts: bool = False,
    tile: int = 0,
    stride: int = 0,
    notes: list[str] | None = None,
) -> list[ImageFile]:
    """The images of a folder (sorted; the first level names the class) or of a manifest (.csv, .parquet).

    Folders called train, val and test are the split, told in the column `split`; `DATA#classes` takes them
    for classes (see folders.placing). A folder's own manifest.csv (see tables.OWN) adds its columns.
    With `parts`, files that hold many images give each of them: pages, frames, slices, members of a .tar,
    rows of a .parquet; of HDF5 and zarr `DATA#/NAME` chooses the arrays. `tile` > 0 cuts TIFFs larger than
    it into windows of that side, px, every `stride`. Hidden files are passed over.
    What a person should know of all this is added to `notes`, a sentence each.
    Raises DataError when there are none.
    """
    told: Notes = {}
    source = Source.of(data)
    if not parts and source.kind in ("hub", "shards"):
        raise DataError(f"{source}: no such folder of images, nor a manifest")
    files = list(listed(source, told, parts=parts))
    if parts:
        files = list(expanded(files, source, tile, stride, told))
    elif any(listing.is_container(file.path) for file in files):
        raise DataError(
            f"{source.path}: holds many images in one file, which this command does not take; "
            "training, inspect, views and probe do"
        )
    return finished(files, source, parts, told, notes)


def each_image(
    data: Source | Path | str,
    *,
    tile: int = 0,
    stride: int = 0,
    notes: list[str] | None = None,
) -> Iterator[ImageFile]:
    """The same images as `find_images` with `parts`, one by one and in the same order.

    Of a folder the names of one of its folders are held at a time, and of files that hold many images the
    list of one file; manifests, data sets of the Hub and a folder's own manifest are held whole.
    `notes` is full, and DataError raised where there are none, when the last one was taken.
    """
    told: Notes = {}
    source = Source.of(data)
    one = None
    for one in expanded(listed(source, told, hold=False), source, tile, stride, told):
        yield one
    finished([] if one is None else [one], source, True, told, notes)


def listed(
    source: Source, told: Notes, *, parts: bool = True, hold: bool = True
) -> Iterable[ImageFile]:
    """The files of a source; with `hold` False those of a folder are looked up as they are taken."""
    if source.kind in ("hub", "shards"):
        return listing.listed_elsewhere(source, told)
    if source.kind == "manifest":
        return read_manifest(source.path, told)
    if source.kind == "folder":
        manifest = own_manifest(source.path, told)
        files = below(source.path, parts, source.splits, told, hold=hold)
        return files if manifest is None else with_columns(list(files), source.path, manifest, told)
    if is_packed(source.path.name):
        refuse_packed(source.path)
    return [ImageFile(source.path)]


def expanded(
    files: Iterable[ImageFile], source: Source, tile: int, stride: int, told: Notes
) -> Iterator[ImageFile]:
    """Every image of the files."""
    if source.kind in ("hub", "shards"):  # they are images already
        yield from files
        return
    for file in files:
        yield from listing.expand(file, tile, stride or tile, source.arrays, told)


def finished(
    files: list[ImageFile], source: Source, parts: bool, told: Notes, notes: list[str] | None
) -> list[ImageFile]:
    """The files, with what is to be told of them. Raises DataError where there are none."""
    if not files and source.kind not in ("hub", "shards"):
        raise DataError(
            f"{source.path}: no images found; need files ending in {', '.join(SUFFIXES)}"
            + (f" or {', '.join(listing.SUFFIXES)}" if parts else "")
            + "".join(f"\nnote: {sentence}" for sentence in sentences(told))
        )
    if notes is not None:
        notes += sentences(told)
    return files


def sentences(told: Notes) -> list[str]:
    """Each note once, with the files it is about."""
    return [
        f"{examples(map(str, files), 1)}: {text}" if files else text for text, files in told.items()
    ]


def below(
    folder: Path, parts: bool, splits: bool, told: Notes, *, hold: bool = True
) -> Iterator[ImageFile]:
    """The images of a folder, their classes and splits by the folders they lie in.

    Its folders are gone through twice, first to learn what their levels say; `hold` keeps the names.
    """
    wanted = SUFFIXES + (listing.SUFFIXES if parts else ())

    def taken(root: Path, names: list[str]) -> list[str]:
        return [
            name
            for name in names
            if name.lower().endswith(wanted) or (parts and (root / name).is_dir())
        ]

    walk = Walk(folder, is_one if parts else lambda path: False)
    folders: Iterable[tuple[Path, list[str]]] = list(walk) if hold else walk
    parents: Counter[tuple[str, ...]] = Counter()
    packed: list[object] = []
    containers: list[str] = []
    for root, names in folders:
        own = taken(root, names)
        if own:
            parents[root.relative_to(folder).parts] += len(own)
        containers += [name for name in own if listing.is_container(Path(name))]
        packed += [root / name for name in names if is_packed(name) and not (root / name).is_dir()]
    if packed:
        told[f"passed over; {WAY_OUT}"] = packed
    told.update((sentence, []) for sentence in walk.notes())
    place, sentence = placing(parents, splits=splits)
    by_name: dict[str, str] = {}
    if splits and sentence is None and parents and len(containers) == parents.total():
        found = split_by_name(containers)
        if found is not None:
            sentence = "the names of its files, such as " + (
                f"{examples(containers, 2)}, are taken as the split"
            )
            by_name = dict(zip(containers, found, strict=True))
    if sentence is not None:
        told[f"{kept(str(folder))}: {sentence}"] = []
    for root, names in folders:
        own = taken(root, names)
        label, split = place(root.relative_to(folder).parts) if own else (None, "")
        for name in own:
            columns = {} if sentence is None else {"split": by_name.get(name, split)}
            yield ImageFile(root / name, label, columns=columns)


def passed_over(folder: Path) -> dict[str, int]:
    """Endings of files of a folder that no reader here takes, most first: {".heic": 120}."""
    endings: Counter[str] = Counter()
    for root, names in Walk(folder, is_one):
        endings.update(
            kept(Path(name).suffix.lower()) or "no ending"
            for name in names
            if not name.lower().endswith(SUFFIXES + listing.SUFFIXES)
            and not os.path.isdir(root / name)
        )
    return dict(endings.most_common())
