"""Files that hold many images, opened once for each thread that reads them."""

from __future__ import annotations

import json
import threading
import warnings
from pathlib import Path
from typing import Any

from jepack.decoding import OWN, dicom, need
from jepack.errors import DataError

HANDLES = 16  # open files per thread
local = threading.local()


def frames(path: Path) -> dicom.Frames:
    opened: dicom.Frames = handle(path, "dicom", lambda: dicom.Frames(path, OWN))
    return opened


def handle(path: Path, kind: str, opening: Any) -> Any:
    """An open file of this thread; the oldest is let go when there are many."""
    handles: dict[Any, Any] = local.__dict__.setdefault("handles", {})
    key = (kind, path)
    if key not in handles:
        if len(handles) >= HANDLES:
            handles.pop(next(iter(handles)))
        handles[key] = opening()
    return handles[key]


def open_arrays(path: Path, kind: str) -> Any:
    if kind == "hdf5":
        return handle(path, kind, lambda: need("h5py", "hdf5").File(path, "r"))
    return handle(path, kind, lambda: need("zarr", "zarr").open(str(path), mode="r"))


def quiet_raster(path: Path) -> Any:
    rasterio = need("rasterio", "geo")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a picture without coordinates is fine
        return rasterio.open(path)


def saved(path: Path) -> Any:
    datasets = need("datasets", "datasets")

    def opening() -> Any:
        if path.is_dir():
            data = datasets.load_from_disk(str(path))
        else:  # listing.hub_images wrote it
            told = json.loads(path.read_text())
            data = datasets.load_dataset(told["dataset"], split=told["split"])
        column = next((k for k, v in data.features.items() if isinstance(v, datasets.Image)), None)
        if column is None:
            raise DataError(f"{path}: no column of images; found {', '.join(data.features)}")
        return data.cast_column(column, datasets.Image(decode=False)), column

    return handle(path, "datasets", opening)
