"""Finding images: folders, manifests, and files that hold many. No decoding here; see preprocess.py.

Whatever the source, an image is an `ImageFile` whose `read()` gives bytes that preprocess.decode takes.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from jepack.decoding import SUFFIXES
from jepack.errors import DataError
from jepack.names import examples, kept
from jepack.sources import listing
from jepack.sources.folders import Notes, Walk, places, split_by_name
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
    for classes (see folders.places). A folder's own manifest.csv (see tables.OWN) adds its columns.
    With `parts`, files that hold many images give each of them: pages, frames, slices, members of a .tar,
    rows of a .parquet; of HDF5 and zarr `DATA#/NAME` chooses the arrays. `tile` > 0 cuts TIFFs larger than
    it into windows of that side, px, every `stride`. Hidden files are passed over.
    What a person should know of all this is added to `notes`, a sentence each.
    Raises DataError when there are none.
    """
    told: Notes = {}
    source = Source.of(data)
    if source.kind in ("hub", "shards"):
        if not parts:
            raise DataError(f"{source}: no such folder of images, nor a manifest")
        return finished(listing.listed_elsewhere(source, told), told, notes)
    if source.kind == "manifest":
        files = read_manifest(source.path, told)
    elif source.kind == "folder":
        files = below(source.path, parts, source.splits, told)
        manifest = own_manifest(source.path, told)
        if manifest is not None:
            files = with_columns(files, source.path, manifest, told)
    else:
        if is_packed(source.path.name):
            refuse_packed(source.path)
        files = [ImageFile(source.path)]
    if parts:
        files = [
            part
            for file in files
            for part in listing.expand(file, tile, stride or tile, source.arrays, told)
        ]
    elif any(listing.is_container(file.path) for file in files):
        raise DataError(
            f"{source.path}: holds many images in one file, which this command does not take; "
            "training, inspect, views and probe do"
        )
    if not files:
        raise DataError(
            f"{source.path}: no images found; need files ending in {', '.join(SUFFIXES)}"
            + (f" or {', '.join(listing.SUFFIXES)}" if parts else "")
            + "".join(f"\nnote: {sentence}" for sentence in sentences(told))
        )
    return finished(files, told, notes)


def finished(files: list[ImageFile], told: Notes, notes: list[str] | None) -> list[ImageFile]:
    if notes is not None:
        notes += sentences(told)
    return files


def sentences(told: Notes) -> list[str]:
    """Each note once, with the files it is about."""
    return [
        f"{examples(map(str, files), 1)}: {text}" if files else text for text, files in told.items()
    ]


def below(folder: Path, parts: bool, splits: bool, told: Notes) -> list[ImageFile]:
    """The images of a folder, their classes and splits by the folders they lie in."""
    wanted = SUFFIXES + (listing.SUFFIXES if parts else ())
    walk = Walk(folder, is_one if parts else lambda path: False)
    every = [root / name for root, names in walk for name in names]
    paths = [
        path for path in every if path.name.lower().endswith(wanted) or (parts and path.is_dir())
    ]
    if packed := [path for path in every if is_packed(path.name) and not path.is_dir()]:
        told[f"passed over; {WAY_OUT}"] = list(packed)
    told.update((sentence, []) for sentence in walk.notes())
    placed, sentence = places(
        [path.relative_to(folder).parts[:-1] for path in paths], splits=splits
    )
    if splits and sentence is None and paths and all(map(listing.is_container, paths)):
        by_name = split_by_name([path.name for path in paths])
        if by_name is not None:
            sentence = "the names of its files, such as " + (
                f"{examples([path.name for path in paths], 2)}, are taken as the split"
            )
            placed = [(label, split) for (label, _), split in zip(placed, by_name, strict=True)]
    if sentence is not None:
        told[f"{kept(str(folder))}: {sentence}"] = []
    return [
        ImageFile(path, label, columns={"split": split} if sentence is not None else {})
        for path, (label, split) in zip(paths, placed, strict=True)
    ]


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
