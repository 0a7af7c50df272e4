"""Image formats beyond Pillow: bytes -> values of any depth. Each library is imported when needed.

npy needs NumPy alone; the others say which extra brings their library. The same code runs inside the
Triton server, where a format works when its extra is installed there.
"""

from __future__ import annotations

import importlib
import io
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from jepack.errors import DataError, DependencyError
from jepack.intensity import Raw, as_image

MAX_PIXELS = 25_000_000  # height x width of one image
MAX_VALUES = 256_000_000  # with channels


def need(module: str, extra: str) -> Any:
    """A library of an optional extra, or DependencyError saying how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.split(".")[0]
        raise DependencyError(
            f"these images need {library}, which is not installed here. "
            f"Install it: pip install 'jepack[{extra}]'"
        ) from error


def kind_of(data: bytes) -> str:
    """npy, dicom, fits, tiff or picture (for Pillow to find out), by the first bytes."""
    if data[:6] == b"\x93NUMPY":
        return "npy"
    if data[128:132] == b"DICM":
        return "dicom"
    if data[:9] == b"SIMPLE  =":
        return "fits"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    return "picture"


def read_array(kind: str, data: bytes, channels: int | None = None) -> Raw:
    """An npy, dicom, fits or tiff file; raises DataError with the reason it cannot be used."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            raw = READERS[kind](data, channels)
    except (DataError, DependencyError):
        raise
    except Exception as error:  # every parser has its own family
        raise DataError(f"{kind}: {error or type(error).__name__}") from error
    check_size(raw.values.shape)
    return raw


def check_size(shape: tuple[int, ...]) -> None:
    if 0 in shape:
        raise DataError(f"no pixels: shape {shape}")
    if shape[0] * shape[1] > MAX_PIXELS or math.prod(shape) > MAX_VALUES:
        raise DataError(
            f"{shape[1]} x {shape[0]} pixels in {shape[2] if len(shape) > 2 else 1} channels, the limit is "
            f"{MAX_PIXELS / 1e6:.0f} megapixels and {MAX_VALUES / 1e6:.0f} million values"
        )


def read_npy(data: bytes, channels: int | None) -> Raw:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    header: Any = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        header = np.lib.format.read_array_header_2_0
    shape, _, kind = header(stream)  # before anything is allocated
    if kind.hasobject or math.prod(shape) > MAX_VALUES:
        raise DataError(f"npy: {kind} of shape {shape} is not an image")
    return Raw(as_image(np.load(io.BytesIO(data), allow_pickle=False), channels))


def read_tiff(data: bytes, channels: int | None) -> Raw:
    tifffile = need("tifffile", "tiff")
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        if math.prod(page.shape) > MAX_VALUES:
            check_size(tuple(page.shape))
        if channels not in (None, 1, 3, page.samplesperpixel):  # channels may lie on pages
            return Raw(as_image(np.squeeze(file.asarray(series=0)), channels))
        values = page.asarray()
        if page.axes.startswith("S") and values.ndim == 3:  # planes one after the other
            values = np.moveaxis(values, 0, 2)
            return Raw(values, inverted=page.photometric == 0)
    if values.ndim == 3 and page.axes.endswith("S"):
        return Raw(values)
    return Raw(as_image(values, channels), inverted=page.photometric == 0)


def read_dicom(data: bytes, channels: int | None, frame: int = 0) -> Raw:
    """Rescaled values (such as Hounsfield units) with the file's first window."""
    pydicom = need("pydicom", "dicom")
    pixels = need("pydicom.pixels", "dicom")
    dataset = pydicom.dcmread(io.BytesIO(data))
    if "PixelData" not in dataset:
        raise DataError("dicom: holds no picture")
    values = np.asarray(dataset.pixel_array)
    colour = int(dataset.get("SamplesPerPixel", 1)) > 1
    if int(dataset.get("NumberOfFrames", 1) or 1) > 1:
        values = values[frame]
    if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        return Raw(np.asarray(pixels.apply_color_lut(values, dataset)))
    if colour:
        return Raw(values)
    values = np.asarray(pixels.apply_rescale(values, dataset), dtype=np.float32)
    return Raw(
        values[..., None],
        window=dicom_window(dataset, values),
        inverted=dataset.get("PhotometricInterpretation") == "MONOCHROME1",
    )


def dicom_window(dataset: Any, values: Any) -> tuple[float, float]:
    """The file's first window; without one, the range of its values."""
    centre, width = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    if centre is None or width is None:
        low, high = float(values.min()), float(values.max())
        return (low, high) if high > low else (low, low + 1)
    if hasattr(centre, "__len__"):
        centre, width = centre[0], width[0]
    half = max(float(width) - 1, 1) / 2  # DICOM PS3.3 C.11.2.1.2
    return (float(centre) - 0.5 - half, float(centre) - 0.5 + half)


def read_fits(data: bytes, channels: int | None) -> Raw:
    """The first unit that holds a picture; rows in the file's order."""
    fits = need("astropy.io.fits", "fits")
    with fits.open(io.BytesIO(data), memmap=False) as units:
        for unit in units:
            if getattr(unit, "is_image", False) and unit.data is not None and unit.data.ndim >= 2:
                values = np.squeeze(unit.data)
                native = values.astype(values.dtype.newbyteorder("="))
                return Raw(as_image(native, channels))
    raise DataError("fits: no unit holds a picture")


READERS: dict[str, Callable[[bytes, int | None], Raw]] = {
    "npy": read_npy,
    "tiff": read_tiff,
    "dicom": read_dicom,
    "fits": read_fits,
}
