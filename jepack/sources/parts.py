"""The parts of a file that holds many images: which there are. reading.py reads one.

A part is named by a short text kept in the cache's index: `page=2`, `image=2` (with all its channels),
`frame=5`, `slice=/x:17`, `planes=/0@tczyx:3` (an image with its channels, of OME-Zarr's axes),
`window=0,512,256,256` (top, left, height, width), `bytes=1024:5120` (of a .tar), `row=3`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jepack.decoding import dicom, need, page_sizes, stacked_images
from jepack.errors import DataError, DependencyError
from jepack.names import kept
from jepack.sources.choosing import choose
from jepack.sources.folders import Notes
from jepack.sources.handles import open_arrays, quiet_raster, saved
from jepack.sources.reading import image_column

MIN_VALID = 0.5  # share of a window that must hold data

Parts = list[tuple[str | None, str | None]]  # part and label
WHOLE: Parts = [(None, None)]


def parts_of(path: Path, tile: int, stride: int, arrays: Sequence[str], told: Notes) -> Parts:
    """The parts of a file, or of a folder that counts as one; of a plain image its whole."""
    suffix = path.suffix.lower()
    if path.is_dir():
        saved_by_datasets = (path / "state.json").is_file()
        return rows_of_saved(path) if saved_by_datasets else slices(path, "zarr", arrays, told)
    if suffix in (".h5", ".hdf5"):
        return slices(path, "hdf5", arrays, told)
    if suffix == ".parquet":
        return rows_of_parquet(path)
    if suffix in (".tif", ".tiff"):
        return tiff_parts(path, tile, stride)
    if suffix == ".npy":
        return npy_parts(path)
    if suffix in dicom.SUFFIXES:
        return dicom_parts(path)
    return WHOLE


def npy_parts(path: Path) -> Parts:
    shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    return [(f"index={n}", None) for n in range(shape[0])] if len(shape) == 4 else WHOLE


def dicom_parts(path: Path) -> Parts:
    frames = dicom.frames_of(path)
    if (
        frames > path.stat().st_size
    ):  # more than bytes: a header that is not true, and may list billions
        return WHOLE
    return [(f"frame={n}", None) for n in range(frames)] if frames > 1 else WHOLE


def tiff_parts(path: Path, tile: int, stride: int) -> Parts:
    """Windows of a large picture, the images of a stack of channels, or the pages that are alike; those of a
    pyramid are not."""
    try:
        pages, sizes = page_sizes(path)
        width, height = max(sizes)
    except Image.DecompressionBombError:
        width = height = 1 << 20  # larger than any tile
        pages, sizes = [0], {(0, 0), (1, 1)}
    except DependencyError:
        pages, sizes, width, height = [0], set(), 0, 0  # decoding says what is missing
    if tile and (max(width, height) > tile or not width):
        return [(part, None) for part in windows(path, tile, stride)] or WHOLE
    if len(pages) > 1 and (images := stacked_images(path)):
        return [(f"image={n}", None) for n in range(images)] if images > 1 else WHOLE
    if len(pages) > 1 and len(sizes) == 1:
        return [(f"page={n}", None) for n in pages]
    return WHOLE


def windows(path: Path, tile: int, stride: int) -> list[str]:
    """Windows of which at least half holds data, judged on a small picture of the mask."""
    with quiet_raster(path) as source:
        step = max(1, min(tile, stride) // 8)
        small = (max(1, source.height // step), max(1, source.width // step))
        mask = source.dataset_mask(out_shape=small) > 0
        filled = []
        for top in starts(source.height, tile, stride):
            for left in starts(source.width, tile, stride):
                rows = slice(
                    top * small[0] // source.height, -(-(top + tile) * small[0] // source.height)
                )
                columns = slice(
                    left * small[1] // source.width, -(-(left + tile) * small[1] // source.width)
                )
                if mask[rows, columns].mean() >= MIN_VALID:
                    height, width = min(tile, source.height - top), min(tile, source.width - left)
                    filled.append(f"window={top},{left},{height},{width}")
        return filled


def starts(extent: int, tile: int, stride: int) -> list[int]:
    """Where windows begin; the last one ends at the border."""
    if extent <= tile:
        return [0]
    offsets = list(range(0, extent - tile + 1, stride))
    return offsets if offsets[-1] == extent - tile else [*offsets, extent - tile]


def slices(path: Path, kind: str, wanted: Sequence[str], told: Notes) -> Parts:
    """The images of the arrays that hold them (see choosing.py); the first of 3 or 4 axes counts images."""
    try:
        arrays, left = choose(open_arrays(path, kind), wanted)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    if left:
        told.setdefault(left, []).append(path)
    parts: Parts = []
    for array in arrays:
        numbers = [""] if array.count is None else [str(n) for n in range(array.count)]
        parts.extend((f"{array.part}:{number}", None) for number in numbers)
    return parts


def array_of(part: str | None) -> str:
    """`/x` of the part `slice=/x:3`; "" of others."""
    kind, _, key = (part or "").partition("=")
    name = key.rpartition(":")[0]
    return name if kind == "slice" else name.rpartition("@")[0] if kind == "planes" else ""


def rows_of_parquet(path: Path) -> Parts:
    parquet = need("pyarrow.parquet", "datasets")
    schema = parquet.read_schema(path)
    if image_column(schema) is None:
        raise DataError(f"{path}: no column of encoded images; found {', '.join(schema.names)}")
    labels: list[Any] = [None] * parquet.read_metadata(path).num_rows
    if "label" in schema.names:
        labels = parquet.read_table(path, columns=["label"])["label"].to_pylist()
        names = class_names((schema.metadata or {}).get(b"huggingface"))
        labels = [label_of(v, names) for v in labels]
    return [(f"row={n}", label) for n, label in enumerate(labels)]


def label_of(value: Any, names: list[str] | None) -> str | None:
    """A cell's class; None where it is empty, not a number, or -1, as `datasets` marks an unknown one."""
    if value is None or value == -1 or value != value or value == "":
        return None
    return kept(names[value] if names and isinstance(value, int) else str(value))


def class_names(features: bytes | None) -> list[str] | None:
    """The names that `datasets` keeps in a parquet file for its integer labels."""
    try:
        info = json.loads(features or b"{}")
        return list(info["info"]["features"]["label"]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def rows_of_saved(path: Path) -> Parts:
    data, _ = saved(path)
    labels: list[Any] = [None] * len(data)
    if "label" in data.features:
        names = getattr(data.features["label"], "names", None)
        labels = [label_of(v, names) for v in data["label"]]
    return [(f"saved={n}", label) for n, label in enumerate(labels)]
