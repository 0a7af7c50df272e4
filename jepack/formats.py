"""Image formats beyond Pillow: bytes -> values of any depth. Each library is imported when needed.

npy needs NumPy alone; the others say which extra brings their library. The same code runs inside the
Triton server, where a format works when its extra is installed there. TIFF has a file of its own.
Sizes are read from headers and checked before anything is allocated.
"""

from __future__ import annotations

import importlib
import io
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jepack.errors import DataError, DependencyError, TooLargeError
from jepack.intensity import Raw, as_image


@dataclass(frozen=True)
class Limits:
    """What one image may take."""

    bytes: int  # of the file
    pixels: int  # height x width
    values: int  # with channels


SERVED = Limits(64 * 1024 * 1024, 25_000_000, 256_000_000)  # of bytes that anyone may have sent
# Of a person's own files, in training, inspect and index. From 179 megapixels on, Pillow takes a picture for
# a bomb. What is above SERVED is read smaller, see oversize.py.
OWN = Limits(2 << 30, 178_956_970, 1_000_000_000)
MAX_PIXELS = SERVED.pixels


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
    """npy, dicom, fits, tiff, heic or picture (for Pillow to find out), by the first bytes."""
    if data[:6] == b"\x93NUMPY":
        return "npy"
    if data[128:132] == b"DICM":
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


def check_size(shape: tuple[int, ...], limits: Limits = SERVED) -> None:
    """Raises DataError for [H, W] or [H, W, C] without pixels, TooLargeError above the limits."""
    if 0 in shape:
        raise DataError(f"no pixels: shape {shape}")
    if shape[0] * shape[1] > limits.pixels or math.prod(shape) > limits.values:
        raise TooLargeError(
            f"{shape[1]} x {shape[0]} pixels in {shape[2] if len(shape) > 2 else 1} channels, the limit is "
            f"{limits.pixels / 1e6:.0f} megapixels and {limits.values / 1e6:.0f} million values"
        )


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


def read_dicom(data: bytes, channels: int | None, limits: Limits, frame: int = 0) -> Raw:
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


def read_fits(data: bytes, channels: int | None, limits: Limits) -> Raw:
    """The first unit that holds a picture; rows in the file's order."""
    fits = need("astropy.io.fits", "fits")
    with fits.open(io.BytesIO(data), memmap=False) as units:
        for unit in units:
            # The header tells the shape, also of a compressed unit; its tiles are unpacked one by one.
            if not getattr(unit, "is_image", False) or len(unit.shape) < 2:
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


READERS: dict[str, Callable[[bytes, int | None, Limits], Raw]] = {
    "npy": read_npy,
    "dicom": read_dicom,
    "fits": read_fits,
}
