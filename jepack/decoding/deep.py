"""Image formats beyond Pillow: bytes -> values of any depth. Each library is imported when needed.

npy needs NumPy alone; the others say which extra brings their library. The same code runs inside the
Triton server, where a format works when its extra is installed there. TIFF has a file of its own.
Sizes are read from headers and checked before anything is allocated.
"""

from __future__ import annotations

import io
import math
import stat
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jepack.decoding.dicom import read_dicom
from jepack.decoding.intensity import Raw, as_image
from jepack.decoding.limits import SERVED, Limits, check_size, need
from jepack.errors import DataError, DependencyError, TooLargeError


def size_of_file(path: Path) -> int:
    """Bytes of a regular file. Raises DataError of anything else, which reading may wait on for ever."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: is {what_is(status.st_mode)}, not a file")
    return status.st_size


def what_is(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def kind_of(data: bytes) -> str:
    """npy, dicom, fits, tiff, heic or picture (for Pillow to find out), by the first bytes."""
    if data[:6] == b"\x93NUMPY":
        return "npy"
    if data[128:132] == b"DICM" or begins_as_dicom(data):
        return "dicom"
    if data[:9] == b"SIMPLE  =":
        return "fits"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if data[4:8] == b"ftyp":
        size = min(int.from_bytes(data[:4], "big"), 256)
        brands = {data[at : at + 4] for at in range(8, size, 4)}
        if brands & HEIC_BRANDS and not brands & {b"avif", b"avis"}:
            return "heic"
    return "picture"


HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


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


def read_array(kind: str, data: bytes, channels: int | None = None, limits: Limits = SERVED) -> Raw:
    """An npy, dicom or fits file; raises DataError with the reason it cannot be used."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            raw = READERS[kind](data, channels, limits)
    except (DataError, DependencyError):
        raise
    except Exception as error:  # every parser has its own family
        raise DataError(f"{kind}: {error or type(error).__name__}") from error
    check_size(raw.values.shape, limits)
    return raw


def npy_header(stream: Any) -> tuple[tuple[int, ...], Any]:
    """Shape and type of an npy file."""
    version = np.lib.format.read_magic(stream)
    header: Any = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        header = np.lib.format.read_array_header_2_0
    shape, _, kind = header(stream)
    return shape, kind


def read_npy(data: bytes, channels: int | None, limits: Limits) -> Raw:
    shape, kind = npy_header(io.BytesIO(data))  # before anything is allocated
    if kind.hasobject or math.prod(shape) > limits.values:
        raise DataError(f"npy: {kind} of shape {shape} is not an image")
    return Raw(as_image(np.load(io.BytesIO(data), allow_pickle=False), channels))


def read_fits(data: bytes, channels: int | None, limits: Limits) -> Raw:
    """The first unit that holds a picture; rows in the file's order."""
    fits = need("astropy.io.fits", "fits")
    with fits.open(io.BytesIO(data), memmap=False) as units:
        for unit in units:
            # The header tells the shape, also of a compressed unit; its tiles are unpacked one by one.
            if not holds_picture(unit):
                continue
            tile = [int(side) for side in getattr(unit, "tile_shape", ())]
            if max(math.prod(unit.shape), math.prod(tile)) > limits.values:
                raise TooLargeError(
                    f"fits: {math.prod(unit.shape) / 1e6:,.0f} million values in tiles of "
                    f"{math.prod(tile) / 1e6:,.1f} million, the limit is {limits.values / 1e6:.0f} million"
                )
            values = np.squeeze(unit.data)
            native = values.astype(values.dtype.newbyteorder("="))
            return Raw(as_image(native, channels))
    raise DataError("fits: no unit holds a picture")


def holds_picture(unit: Any) -> bool:
    return bool(getattr(unit, "is_image", False)) and len(unit.shape) >= 2


def fits_shape(data: bytes) -> tuple[int, ...]:
    """The shape of the picture that read_fits reads, from the header; () where it holds none."""
    with need("astropy.io.fits", "fits").open(io.BytesIO(data), memmap=False) as units:
        return next(
            (tuple(n for n in unit.shape if n > 1) for unit in units if holds_picture(unit)), ()
        )


READERS: dict[str, Callable[[bytes, int | None, Limits], Raw]] = {
    "npy": read_npy,
    "dicom": read_dicom,
    "fits": read_fits,
}
