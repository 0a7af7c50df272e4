"""Finding images: folders, manifests, and files that hold many. No decoding here; see preprocess.py.

Whatever the source, an image is an `ImageFile` whose `read()` gives bytes that preprocess.decode takes.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from jepack.decoding import SUFFIXES
from jepack.errors import DataError
from jepack.folders import Notes, Walk, places, split_by_name
from jepack.manifests import (
    Finder,
    Row,
    matched,
    need_paths,
    own_manifest,
    read_table,
    tell_splits,
)
from jepack.names import examples, kept, valid
from jepack.oversize import own_bytes
from jepack.samples import WAY_OUT, is_packed, refuse_packed
from jepack.source import Source, is_one

Box = tuple[float, float, float, float]  # left, top, width, height, px
NOTHING = ("", "nan", "none", "null")  # for a box or a mask; a class may be called so


@dataclass(frozen=True)
class ImageFile:
    """One image; `label` is its class, by its folder's name or the manifest's column."""

    path: Path
    label: str | None = None
    part: str | None = None  # which image of a file that holds many; see listing.py
    columns: dict[str, str] = field(default_factory=dict, compare=False)  # the manifest's others
    box: Box | None = None  # the region that matters
    mask: Path | None = None  # a picture of its shape, not 0 where something matters

    def read(self) -> bytes:
        """The image's own bytes; of a smaller picture where the server would refuse their size; npy (or
        TIFF, PNG) where it is a slice of something larger. Raises DataError."""
        if self.part is None:
            if self.path.is_symlink() and not self.path.exists():
                link = kept(os.readlink(self.path))
                raise DataError(
                    f"{self.path}: cannot be read (a link to {link}, which is not there)"
                )
            return own_bytes(self.path)
        from jepack.parts import read_part

        return read_part(self.path, self.part)

    @property
    def name(self) -> str:
        """For people: one line of valid text (see names.kept)."""
        return kept(str(self.path) if self.part is None else f"{self.path}#{self.part}")

    def name_below(self, base: Path) -> str:
        """`cat/a.png`, `../b.png`, `scan.h5#slice=/x:3`: the name counted from `base` (see Source).

        Valid text of one line (see names.kept); what indexes, embeddings and bundles call the image.
        """
        path = Path(os.path.relpath(self.path, base)).as_posix()
        return kept(path if self.part is None else f"{path}#{self.part}")


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
    for classes (see folders.places). A folder's own manifest.csv (see manifests.OWN) adds its columns.
    With `parts`, files that hold many images give each of them: pages, frames, slices, members of a .tar,
    rows of a .parquet; of HDF5 and zarr `DATA#/NAME` chooses the arrays. `tile` > 0 cuts TIFFs larger than
    it into windows of that side, px, every `stride`. Hidden files are passed over.
    What a person should know of all this is added to `notes`, a sentence each.
    Raises DataError when there are none.
    """
    from jepack import containers

    told: Notes = {}
    source = Source.of(data)
    if source.kind in ("hub", "shards"):
        if not parts:
            raise DataError(f"{source}: no such folder of images, nor a manifest")
        return finished(containers.listed_elsewhere(source, told), told, notes)
    if source.kind == "manifest":
        found = read_manifest(source.path, told)
    elif source.kind == "folder":
        found = below(source.path, parts, source.splits, told)
        manifest = own_manifest(source.path, told)
        if manifest is not None:
            found = with_columns(found, source.path, manifest, told)
    else:
        if is_packed(source.path.name):
            refuse_packed(source.path)
        found = [ImageFile(source.path)]
    if parts:
        found = [
            part
            for file in found
            for part in containers.expand(file, tile, stride or tile, source.arrays, told)
        ]
    elif any(containers.is_container(file.path) for file in found):
        raise DataError(
            f"{source.path}: holds many images in one file, which this command does not take; "
            "training, inspect, views and probe do"
        )
    if not found:
        raise DataError(
            f"{source.path}: no images found; need files ending in {', '.join(SUFFIXES)}"
            + (f" or {', '.join(containers.SUFFIXES)}" if parts else "")
            + "".join(f"\nnote: {sentence}" for sentence in sentences(told))
        )
    return finished(found, told, notes)


def finished(found: list[ImageFile], told: Notes, notes: list[str] | None) -> list[ImageFile]:
    if notes is not None:
        notes += sentences(told)
    return found


def sentences(told: Notes) -> list[str]:
    """Each note once, with the files it is about."""
    return [
        f"{examples(map(str, files), 1)}: {text}" if files else text for text, files in told.items()
    ]


def below(folder: Path, parts: bool, splits: bool, told: Notes) -> list[ImageFile]:
    """The images of a folder, their classes and splits by the folders they lie in."""
    from jepack import containers

    wanted = SUFFIXES + (containers.SUFFIXES if parts else ())
    walk = Walk(folder, is_one if parts else lambda path: False)
    every = [root / name for root, names in walk for name in names]
    paths = [
        path for path in every if path.name.lower().endswith(wanted) or (parts and path.is_dir())
    ]
    if packed := [path for path in every if is_packed(path.name) and not path.is_dir()]:
        told[f"passed over; {WAY_OUT}"] = list(packed)
    told.update((sentence, []) for sentence in walk.notes())
    found, sentence = places([path.relative_to(folder).parts[:-1] for path in paths], splits=splits)
    if splits and sentence is None and paths and all(map(containers.is_container, paths)):
        by_name = split_by_name([path.name for path in paths])
        if by_name is not None:
            sentence = "the names of its files, such as " + (
                f"{examples([path.name for path in paths], 2)}, are taken as the split"
            )
            found = [(label, split) for (label, _), split in zip(found, by_name, strict=True)]
    if sentence is not None:
        told[f"{kept(str(folder))}: {sentence}"] = []
    return [
        ImageFile(path, label, columns={"split": split} if sentence is not None else {})
        for path, (label, split) in zip(paths, found, strict=True)
    ]


def passed_over(folder: Path) -> dict[str, int]:
    """Endings of files of a folder that no reader here takes, most first: {".heic": 120}."""
    from jepack import containers

    found: Counter[str] = Counter()
    for root, names in Walk(folder, is_one):
        found.update(
            kept(Path(name).suffix.lower()) or "no ending"
            for name in names
            if not name.lower().endswith(SUFFIXES + containers.SUFFIXES)
            and not os.path.isdir(root / name)
        )
    return dict(found.most_common())


def read_manifest(path: Path, told: Notes) -> list[ImageFile]:
    """One image per row: `path` (relative to the manifest), optional `label`, `box`, `mask`, and others."""
    rows = read_table(path)
    if not rows:
        raise DataError(f"{path}: the manifest has no rows")
    need_paths(rows, path)
    tell_splits(rows, path, told)
    finder = Finder(path.parent)
    found, missing = [], []
    places: dict[str, Path | None] = {}
    for number, row in enumerate(rows, 2):
        name = row["path"]
        if name not in places:
            places[name] = finder.find(name)
        place = places[name]
        if place is None:
            missing.append(name)
        found.append(from_row(finder, place or path.parent / name, row, f"{path}, row {number}"))
    if len(missing) == len(rows):
        raise DataError(
            f"{path}: none of the {len(rows)} files it names is there ({examples(missing)}); names count "
            f"from {path.parent}. Mend the column `path`, or move the manifest"
        )
    if missing:
        told[
            f"{len(missing)} of {len(rows)} rows name a file that is not there: {examples(missing)}"
        ] = [path]
    return found


def from_row(finder: Finder, path: Path, row: Row, where: str) -> ImageFile:
    others = {
        valid(k): valid(v)
        for k, v in row.items()
        if k not in ("path", "label", "box", "mask", "part")
    }
    box = parse_box(row.get("box"), where)
    mask = row.get("mask") or ""
    shape = None
    if mask.lower() not in NOTHING:
        shape = finder.find(mask) or finder.base / mask
    label = kept(row["label"]) if row.get("label") else None
    return ImageFile(path, label, row.get("part") or None, others, box, shape)


def parse_box(text: str | None, where: str) -> Box | None:
    """ "left top width height" in px, parted by spaces, commas or semicolons."""
    if text is None or text.strip().lower() in NOTHING:
        return None
    try:
        numbers = [
            float(part) for part in text.strip("[]() ").replace(",", " ").replace(";", " ").split()
        ]
        left, top, width, height = numbers
        if width > 0 and height > 0:
            return left, top, width, height
    except ValueError:
        pass
    raise DataError(f"{where}: box is {text!r}, need left top width height in px, both sizes > 0")


def with_columns(
    files: list[ImageFile], folder: Path, manifest: Path, told: Notes
) -> list[ImageFile]:
    """What the folder's manifest says of each file; files it does not name stay as they are.

    Where it has a column `label`, an empty cell is no class, whatever the folder is called.

    Raises DataError when it names none of them.
    """
    rows = read_table(manifest)
    if not rows:
        told["it has no rows"] = [manifest]
        return files
    need_paths(rows, manifest)
    tell_splits(rows, manifest, told)
    finder = Finder(folder)
    said, unmatched, again = matched([file.path for file in files], finder, rows)
    if not said:
        raise DataError(
            f"{manifest}: none of its {len(rows)} rows names one of the {len(files)} images; it names "
            f"{examples(unmatched)}, the folder holds "
            f"{examples(file.name_below(folder) for file in files)}. Mend its column `path`, or rename it"
        )
    if unmatched:
        told[
            f"{len(unmatched)} of {len(rows)} rows name no image of the folder: {examples(unmatched)}"
        ] = [manifest]
    if again:
        told[
            f"{len(again)} images are named by several rows, the last one counts: {examples(again)}"
        ] = [manifest]
    left = [file.name_below(folder) for file in files if file.path not in said]
    if left:
        told[f"{len(left)} of {len(files)} images have no row: {examples(left)}"] = [manifest]
    found = []
    for file in files:
        row = said.get(file.path)
        if row is None:
            found.append(file)
            continue
        row_told = from_row(finder, file.path, row, f"{manifest}, {row['path']}")
        own = {key: value for key, value in row_told.columns.items() if value or key != "split"}
        columns = {**file.columns, **own}
        label = row_told.label if "label" in row else file.label
        found.append(replace(row_told, label=label, part=None, columns=columns))
    return found
