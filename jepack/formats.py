"""Image formats beyond Pillow: bytes -> values of any depth. Each library is imported when needed.

npy needs NumPy alone; the others say which extra brings their library. The same code runs inside the
Triton server, where a format works when its extra is installed there.
"""

from __future__ import annotations

import importlib
import io
import math
import struct
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
    if data[128:132] == b"DICM" or begins_as_dicom(data):
        return "dicom"
    if data[:9] == b"SIMPLE  =":
        return "fits"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    return "picture"


def begins_as_dicom(data: bytes) -> bool:
    """A DICOM file without its preamble: it begins with two elements of groups 2 or 8, in order.

    No other format read here begins like that.
    """
    return any(
        (first := element_at(data, 0, order))[0][0] in (2, 8)
        and first[0] < (second := element_at(data, first[1], order))[0]
        and second[0][0] in (2, 8)
        for order in "<>"
    )


def element_at(data: bytes, offset: int, order: str) -> tuple[tuple[int, int], int]:
    """Group and element of a DICOM element, and where the next begins (PS3.5, 7.1); zeros past the end."""
    head = data[offset : offset + 12]
    if len(head) < 12:
        return (0, 0), offset
    tag = struct.unpack_from(order + "HH", head)
    kind = head[4:6]
    if not (kind.isalpha() and kind.isupper()):  # implicit
        return tag, offset + 8 + struct.unpack_from(order + "I", head, 4)[0]
    if kind in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return tag, offset + 12 + struct.unpack_from(order + "I", head, 8)[0]
    return tag, offset + 8 + struct.unpack_from(order + "H", head, 6)[0]


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


def read_dicom(data: bytes, channels: int | None) -> Raw:
    from jepack import dicom  # it imports this module

    return dicom.read_dicom(data, channels)


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
