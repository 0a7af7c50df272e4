"""A manifest: the rows of a table -> the images they name, with class, box, mask and other columns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from jepack.errors import DataError
from jepack.names import examples, kept, valid
from jepack.sources.folders import Notes
from jepack.sources.image import Box, ImageFile
from jepack.sources.tables import (
    Finder,
    Row,
    matched,
    need_paths,
    read_table,
    tell_splits,
)

NOTHING = ("", "nan", "none", "null")  # for a box or a mask; a class may be called so


def read_manifest(path: Path, told: Notes) -> list[ImageFile]:
    """One image per row: `path` (relative to the manifest), optional `label`, `box`, `mask`, and others."""
    rows = read_table(path)
    if not rows:
        raise DataError(f"{path}: the manifest has no rows")
    need_paths(rows, path)
    tell_splits(rows, path, told)
    finder = Finder(path.parent)
    files, missing = [], []
    places: dict[str, Path | None] = {}
    for number, row in enumerate(rows, 2):
        name = row["path"]
        if name not in places:
            places[name] = finder.find(name)
        place = places[name]
        if place is None:
            missing.append(name)
        files.append(from_row(finder, place or path.parent / name, row, f"{path}, row {number}"))
    if len(missing) == len(rows):
        raise DataError(
            f"{path}: none of the {len(rows)} files it names is there ({examples(missing)}); names count "
            f"from {path.parent}. Mend the column `path`, or move the manifest"
        )
    if missing:
        told[
            f"{len(missing)} of {len(rows)} rows name a file that is not there: {examples(missing)}"
        ] = [path]
    return files


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
    described = []
    for file in files:
        row = said.get(file.path)
        if row is None:
            described.append(file)
            continue
        row_told = from_row(finder, file.path, row, f"{manifest}, {row['path']}")
        own = {key: value for key, value in row_told.columns.items() if value or key != "split"}
        columns = {**file.columns, **own}
        label = row_told.label if "label" in row else file.label
        described.append(replace(row_told, label=label, part=None, columns=columns))
    return described
