"""The bytes of one image of a file that holds many; parts.py says which parts there are.

Arrays travel as npy bytes, so that decoding, windows and serving need to know one kind.
"""

from __future__ import annotations

import io
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from jepack.decoding import (
    COLOURS,
    MIN_IS_BLACK,
    MIN_IS_WHITE,
    OWN,
    PALETTE,
    RGB,
    Raw,
    Tags,
    check_size,
    need,
    open_tiff,
    quiet,
    resolve,
    size_of_page,
)
from jepack.errors import DataError, DecoderError, DependencyError, TooLargeError
from jepack.sources.carried import carried
from jepack.sources.fetching import read_member
from jepack.sources.handles import frames, handle, local, open_arrays, quiet_raster, saved
from jepack.sources.oversize import fit, fitted, full_size_of, smaller_frame

MAX_CHUNK = 1 << 30  # bytes of a chunk of HDF5 or zarr, unpacked
SLACK = 65536  # bytes by which what is stored of a chunk may be larger than the chunk


def read_part(path: Path, part: str) -> bytes:
    """The bytes of one image of a file. Raises DataError."""
    kind, _, key = part.partition("=")
    try:
        if kind == "frame":
            return dicom_frame(path, int(key))
        if kind in ("page", "image"):
            number = {kind: int(key)}
            return carried(fit(open_tiff(path, None, deep=True, limits=OWN, **number)))
        if kind == "window":
            return carried(fit(raster_window(path, *(int(number) for number in key.split(",")))))
        return fitted(stored(path, kind, key), f"{path}#{part}")
    except DataError:
        raise
    except DependencyError as error:
        raise DecoderError(str(error)) from error
    except MemoryError as error:
        raise DataError(f"{path}#{part}: needs more memory than there is") from error
    except Exception as error:
        raise DataError(f"{path}#{part}: {error or type(error).__name__}") from error


def stored(path: Path, kind: str, key: str) -> bytes:
    """The bytes of a member or a row, npy of an array; of any size."""
    if kind == "bytes":
        offset, size = (int(number) for number in key.split(":"))
        return read_member(path, offset, size)
    if kind == "row":
        return parquet_row(path, int(key))
    if kind == "saved":
        data, column = saved(path)
        return encoded(data[int(key)][column], path)
    return npy_bytes(array_of(path, kind, key))


def full_size_of_part(path: Path, part: str) -> tuple[int, int] | None:
    """As oversize.full_size, of a part."""
    kind, _, key = part.partition("=")
    if kind == "window":
        _, _, height, width = (int(number) for number in key.split(","))
        return height, width
    if kind == "frame":
        return frames(path).size
    if kind in ("page", "image"):
        return size_of_page(path, int(key) if kind == "page" else 0)
    return full_size_of(stored(path, kind, key))


def array_of(path: Path, kind: str, key: str) -> Any:
    if kind == "index":
        return np.load(path, mmap_mode="r", allow_pickle=False)[int(key)]
    if kind == "slice":
        name, _, number = key.rpartition(":")
        node = open_arrays(path, "zarr" if path.is_dir() else "hdf5")
        array = node[name] if name else node
        check_size(tuple(array.shape[1:] if number else array.shape), OWN)
        check_chunk(array, int(number) if number else None)
        return np.asarray(array[int(number)] if number else array[...])
    if kind == "planes":
        name, _, number = key.rpartition(":")
        name, _, axes = name.rpartition("@")
        node = open_arrays(path, "zarr" if path.is_dir() else "hdf5")
        return planes_of(node[name] if name else node, axes, int(number or 0))
    raise DataError(f"{path}: no part of kind {kind!r}")


def planes_of(array: Any, axes: str, image: int) -> Any:
    """[H, W, C] of one image of an array with these axes; those that are not c, y or x count images."""
    sizes = dict(zip(axes, map(int, array.shape), strict=True))
    check_size((sizes["y"], sizes["x"], sizes["c"]), OWN)
    check_chunk(array)
    others = [axis for axis in axes if axis not in "cyx"]
    place = dict(zip(others, np.unravel_index(image, [sizes[a] for a in others]), strict=True))
    values = np.asarray(array[tuple(int(place[a]) if a in place else slice(None) for a in axes)])
    left = [axis for axis in axes if axis not in place]
    return values.transpose([left.index(axis) for axis in "yxc"])


def check_chunk(array: Any, number: int | None = None) -> None:
    """Refuse a chunk that unpacks to more than an image may take: it is unpacked whole for any part of it.

    gzip inflates without a limit: what is stored of a chunk may hardly be larger than the chunk. `number` is
    the row that is read, None = all.
    """
    chunk = getattr(array, "chunks", None)
    if not chunk:
        return
    size = math.prod(int(side) for side in chunk) * array.dtype.itemsize
    if size > MAX_CHUNK:
        raise TooLargeError(
            f"its chunks of {' x '.join(map(str, chunk))} unpack to {size / 1e9:.1f} GB, the limit is "
            f"{MAX_CHUNK / 1e9:.1f} GB. Write it with smaller chunks, such as one image each"
        )
    shard = getattr(array, "shards", None)  # what zarr stores as one, of several chunks
    chunk, due = (shard, math.prod(shard) * array.dtype.itemsize) if shard else (chunk, size)
    rows = range(0, array.shape[0], chunk[0]) if number is None else (number,)
    others = (range(0, n, step) for n, step in zip(array.shape[1:], chunk[1:], strict=True))
    for place in itertools.product(rows, *others):
        stored = stored_size(array, place, chunk)
        if stored > 2 * due + SLACK:
            raise TooLargeError(
                f"holds a chunk of {stored:,} bytes where {due:,} are due: it would unpack to far more"
            )


def stored_size(array: Any, place: tuple[int, ...], chunk: tuple[int, ...]) -> int:
    """Bytes that the chunk which holds this element takes on disk; 0 where there is none."""
    if hasattr(array, "id"):  # HDF5
        return int(array.id.get_chunk_info_by_coord(place).size) if array.id.get_num_chunks() else 0
    root = getattr(getattr(getattr(array, "store_path", None), "store", None), "root", None)
    if root is None:  # not a folder, or zarr 2
        return 0
    key = array.metadata.encode_chunk_key(tuple(n // m for n, m in zip(place, chunk, strict=True)))
    try:
        return (Path(root) / array.path / key).stat().st_size
    except OSError:  # all of it has the fill value
        return 0


def dicom_frame(path: Path, frame: int) -> bytes:
    """One frame as a DICOM file of its own: rescaling, window and inversion stay with it."""
    with quiet():
        return smaller_frame(frames(path), frame)


def raster_window(path: Path, top: int, left: int, height: int, width: int) -> Raw:
    """A window of a map, read as a whole file of its tags would be."""
    source = handle(path, "raster", lambda: quiet_raster(path))
    window = need("rasterio.windows", "geo").Window(left, top, width, height)
    check_size((height, width, source.count), OWN)
    values = np.moveaxis(source.read(window=window), 0, 2)
    tags = raster_tags(source)
    colours = source.colormap(1) if tags.photometric == PALETTE else {}
    table = np.zeros((3, 1 + max(colours, default=0)), np.uint16)
    for entry, colour in colours.items():
        table[:, entry] = np.array(colour[:3]) << 8
    return resolve(values, tags, table if colours else None)


def place_of_window(path: Path, part: str) -> tuple[float, float, float, float]:
    """Top, left, bottom and right of a window, as shares of its map's height and width."""
    top, left, height, width = map(int, part.removeprefix("window=").split(","))
    source = handle(path, "raster", lambda: quiet_raster(path))
    return (
        top / source.height, left / source.width,
        (top + height) / source.height, (left + width) / source.width,
    )  # fmt: skip


def raster_tags(source: Any) -> Tags:
    """What GDAL says of a map, in TIFF's words."""
    meanings = [meaning.name for meaning in source.colorinterp]
    photometric = MIN_IS_BLACK
    if source.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES":
        photometric = MIN_IS_WHITE  # GDAL makes a palette of it
    elif meanings[:3] == ["red", "green", "blue"]:
        photometric = RGB
    elif meanings == ["palette"]:
        photometric = PALETTE
    spare = meanings[COLOURS[photometric] :]
    extras = tuple(2 if meaning == "alpha" else 0 for meaning in spare)
    return Tags(samples=source.count, photometric=photometric, extras=extras, nodata=source.nodata)


def parquet_row(path: Path, row: int) -> bytes:
    parquet = need("pyarrow.parquet", "datasets")
    file = handle(path, "parquet", lambda: parquet.ParquetFile(path))
    column = image_column(file.schema_arrow)
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        if row < count:
            key = ("group", path, group)
            if getattr(local, "group", (None,))[0] != key:  # rows come in order: keep one group
                local.group = (key, file.read_row_group(group, columns=[column])[column])
            return encoded(local.group[1][row].as_py(), path)
        row -= count
    raise DataError(f"{path}: has no row {row}")


def encoded(value: Any, folder: Path) -> bytes:
    """The bytes of a cell: bytes, or {"bytes", "path"} as `datasets` writes it."""
    if isinstance(value, dict):
        if value.get("bytes") is not None:
            return bytes(value["bytes"])
        if value.get("path"):
            return (folder.parent / value["path"]).read_bytes()
    if isinstance(value, bytes):
        return value
    raise DataError("the cell holds no image")


def npy_bytes(values: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(values), allow_pickle=False)
    return stream.getvalue()


def image_column(schema: Any) -> str | None:
    for field in schema:
        kind = str(field.type)
        if kind == "binary" or kind == "large_binary" or kind.startswith("struct<bytes: binary"):
            return str(field.name)
    return None
