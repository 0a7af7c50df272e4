"""The images of one file or one address: itself, or each of its parts (parts.py)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from jepack.decoding import dicom, need
from jepack.errors import DataError, DependencyError, JepackError
from jepack.files import cache_root, write_json
from jepack.names import examples
from jepack.sources.folders import Notes, split_by_name
from jepack.sources.image import Box, ImageFile
from jepack.sources.parts import WHOLE, Parts, array_of, parts_of, rows_of_saved
from jepack.sources.shards import find_shards, members
from jepack.sources.source import Source

SUFFIXES = (".h5", ".hdf5", ".zarr", ".tar", ".parquet")


def is_container(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def listed_elsewhere(source: Source, told: Notes) -> list[ImageFile]:
    """The images of shards or of a data set of the Hub."""
    if source.kind == "hub":
        return hub_images(source.text)
    return find_shards(source.shards, told)


def expand(
    file: ImageFile, tile: int, stride: int, arrays: Sequence[str] = (), told: Notes | None = None
) -> Iterator[ImageFile]:
    """The images of one file: itself, or one for each part.

    `arrays` names those to take of HDF5 and zarr, none = see choosing.py. What is left out goes to `told`.
    """
    told = {} if told is None else told
    path, suffix = file.path, file.path.suffix.lower()
    if file.part is not None or (path.exists() and not (path.is_file() or path.is_dir())):
        yield file  # of a pipe or a device decoding says what it is
        return
    try:
        if suffix == ".tar" and not path.is_dir():
            yield from members_of(file, told)
        else:
            parts = parts_of(path, tile, stride, arrays, told)
            if parts is WHOLE:
                yield file
                return
            yield from placed(file, parts, splits_of_arrays(parts, path, told), told)
    except DependencyError:
        if suffix not in dicom.SUFFIXES:
            raise
        yield file  # decoding will say what is missing, for this image
    except JepackError:
        raise
    except Exception as error:
        if is_container(path) or path.is_dir():
            raise DataError(f"{path}: {error or type(error).__name__}") from error
        yield file  # decoding will say what is wrong with it


def members_of(file: ImageFile, told: Notes) -> Iterator[ImageFile]:
    """The images of a .tar: what they tell of themselves goes before what is told of the whole."""
    for member in members(file.path, told):
        yield replace(
            member,
            label=member.label if member.label is not None else file.label,
            columns={**file.columns, **member.columns},
        )


def placed(
    file: ImageFile, parts: Parts, splits: dict[str, str], told: Notes
) -> Iterator[ImageFile]:
    """The file once for each part, with its label, split and box. Windows outside a box are left out."""
    outside = 0
    for part, label in parts:
        own = {"split": splits[array_of(part)]} if splits else {}
        box = file.box
        if box is not None and part is not None and part.startswith("window="):
            box = inside(box, part)
            if box is None:
                outside += 1
                continue
        yield replace(
            file,
            part=part,
            box=box,
            label=label if label is not None else file.label,
            columns={**own, **file.columns},
        )
    if outside:
        told.setdefault(f"{outside} windows lie outside the box and are left out", []).append(
            file.path
        )


def inside(box: Box, part: str) -> Box | None:
    """What a window holds of a map's box, counted in the window; None where they do not meet."""
    left, top, width, height = box
    above, before, rows, columns = map(int, part.removeprefix("window=").split(","))
    first, last = max(left, before), min(left + width, before + columns)
    upper, lower = max(top, above), min(top + height, above + rows)
    if first >= last or upper >= lower:
        return None
    return first - before, upper - above, last - first, lower - upper


def splits_of_arrays(parts: Parts, path: Path, told: Notes) -> dict[str, str]:
    """The split of each array where their names tell one, `/train/x` and `/test/x`; else empty."""
    names = sorted({array_of(part) for part, _ in parts})
    splits = split_by_name(names)
    if splits is None:
        return {}
    told.setdefault(f"the arrays {examples(names)} are taken as the split", []).append(path)
    return dict(zip(names, splits, strict=True))


def hub_images(text: str) -> list[ImageFile]:
    """`hf:OWNER/NAME` or `hf:OWNER/NAME:SPLIT`, by the library `datasets`, which downloads it when needed.

    Every split is read, and told in the column `split`, so that training keeps them apart. A small file in
    the cache stands for each; its content, and so the decoded images' identity, changes with the data.
    """
    datasets = need("datasets", "datasets")
    name, _, split = text.removeprefix("hf:").partition(":")
    try:
        dataset = datasets.load_dataset(name, split=split or None)
    except Exception as error:  # of many libraries
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"{text}: `datasets` cannot load it ({reason[0]})") from error
    images = []
    for part, data in ({split: dataset} if split else dataset).items():
        marker = cache_root() / "hub" / f"{re.sub(r'[^0-9A-Za-z.-]+', '--', name)}-{part}.json"
        told = {"dataset": name, "split": part, "fingerprint": data._fingerprint}
        if not marker.is_file() or json.loads(marker.read_text()) != told:
            write_json(marker, told)
        images += [
            ImageFile(marker, label, row, {"split": part}) for row, label in rows_of_saved(marker)
        ]
    return images
