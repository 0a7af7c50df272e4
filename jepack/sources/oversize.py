"""A person's own images that are larger than the server takes: read smaller, as bytes that it does take.

Training, inspect, index and the client read files here, so that they see the same pixels. Up to the server's
limits a file is its own bytes. Above them a JPEG is decoded at a half or a quarter of its size (what its
format is made for), anything else is averaged over k x k pixels, DICOM in its stored values.
Its limits are formats.OWN.
"""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from jepack.decoding import (
    DEEP_MODES,
    OWN,
    READERS,
    SERVED,
    TURNED,
    Frames,
    Raw,
    as_image,
    bits_of,
    channels_first,
    check_pixels,
    deep_values,
    fits_shape,
    formats_of,
    kind_of,
    may_be_large,
    npy_header,
    open_tiff,
    quiet,
    size_of_file,
    size_of_page,
    upright,
)
from jepack.errors import DataError, TooLargeError
from jepack.sources.carried import carried

FIT_PIXELS, FIT_BYTES = (
    16_000_000,
    48 << 20,
)  # of what is made smaller: as PNG, too, within the limits


def own_bytes(path: Path) -> bytes:
    """A file's bytes; where the server would refuse their size, those of a smaller picture of it.

    Raises DataError when the file cannot be read or is above the limits for own images too.
    """
    try:
        size = size_of_file(path)
        if size > OWN.bytes:
            raise TooLargeError(
                f"{path}: {size / 1e9:.1f} GB, the limit is {OWN.bytes / 1e9:.1f} GB. Save it smaller; "
                "a TIFF is cut into windows by --tile 512 of jepack embed, index and inspect, by --set "
                "tile=512 of train"
            )
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return fitted(data, str(path))


def fitted(data: bytes, name: str) -> bytes:
    """An image's bytes; where the server would refuse their size, those of a smaller picture of it.

    Raises DataError, which begins with `name`.
    """
    try:
        if len(data) <= SERVED.bytes and math.prod(size_of(data) or (0,)) <= SERVED.pixels:
            return data
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            smaller = smaller_of(data)
    except DataError as error:
        raise type(error)(f"{name}: {error}") from error
    except Exception as error:  # of many parsers
        raise DataError(f"{name}: {error or type(error).__name__}") from error
    return smaller


def full_size(path: Path) -> tuple[int, int] | None:
    """Height and width, px, of a picture that `own_bytes` reads smaller; None where it does not."""
    return full_size_of(path.read_bytes())


def full_size_of(data: bytes) -> tuple[int, int] | None:
    """Height and width, px, of a picture that `fitted` makes smaller; None where it does not."""
    size = size_of(data)
    if size is None or (len(data) <= SERVED.bytes and math.prod(size) <= SERVED.pixels):
        return None
    return size


def size_of(data: bytes) -> tuple[int, int] | None:
    """Upright height and width from a picture's header; None where it does not tell."""
    kind = kind_of(data)
    try:
        if kind == "npy":
            return sides(npy_header(io.BytesIO(data))[0])
        if kind == "fits":
            # A value takes a byte at least, unless it is packed in tiles.
            small = len(data) <= SERVED.pixels and b"ZNAXIS" not in data
            return None if small else sides(fits_shape(data))
        if kind == "dicom":
            with quiet():
                return Frames(data, OWN).size if may_be_large(data, SERVED.pixels) else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if kind == "tiff":
                return size_of_page(data, 0)
            with Image.open(io.BytesIO(data), formats=formats_of(kind)) as image:
                turned = (
                    image.width * image.height > SERVED.pixels
                    and image.getexif().get(0x0112) in TURNED
                )
                return (image.width, image.height) if turned else (image.height, image.width)
    except TooLargeError:
        raise
    except Exception:  # decoding says what is wrong with it
        return None


def sides(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Height and width of an array of two or three axes, of which one is the channels."""
    if len(shape) == 3:
        try:
            first = channels_first(shape, None)
        except DataError:  # nobody can tell: the smallest axis
            first = shape[0] < shape[2]
        shape = shape[1:] if first else shape[:2]
    return (int(shape[0]), int(shape[1])) if len(shape) == 2 else None


def smaller_of(data: bytes) -> bytes:
    kind = kind_of(data)
    if kind == "npy":
        shape, values = npy_header(io.BytesIO(data))
        if values.hasobject or math.prod(shape) > OWN.values:
            raise TooLargeError(f"npy: {values} of shape {shape} is not an image within the limits")
        return carried(fit(Raw(as_image(np.load(io.BytesIO(data), allow_pickle=False)))))
    if kind == "fits":
        return carried(fit(READERS[kind](data, None, OWN)))
    if kind == "tiff":
        return carried(fit(open_tiff(data, None, deep=True, limits=OWN)))
    if kind == "dicom":
        return smaller_frame(Frames(data, OWN), 0)
    with Image.open(io.BytesIO(data), formats=formats_of(kind)) as image:
        check_pixels(image, OWN)
        factor = factor_of((image.height, image.width, len(image.getbands())), 1)
        if image.format == "JPEG":
            step = next((n for n in (2, 4, 8) if n >= factor), 8)
            image.draft(image.mode, (image.width // step, image.height // step))
        image.load()
        turned = upright(image)
    if turned.mode in DEEP_MODES:
        return carried(fit(deep_values(turned, image.format, bits_of(image, data))))
    return carried(fit(turned))


def smaller_frame(frames: Frames, frame: int) -> bytes:
    """A frame of a DICOM file as a file of its own that the server takes, in the file's own units."""
    if math.prod(frames.size) <= SERVED.pixels:
        data = frames.alone(frame)
        if len(data) <= SERVED.bytes:
            return data
    if frames.header.PhotometricInterpretation == "PALETTE COLOR":  # means of indices mean nothing
        return carried(fit(frames.raw(frame)))

    def smaller(values: Any) -> Any:
        factor = factor_of(values.shape, values.dtype.itemsize)
        return averaged(Raw(values), factor).values

    return frames.alone(frame, smaller)


def fit(image: Image.Image | Raw) -> Image.Image | Raw:
    """The picture as it is when the server takes it, else made smaller."""
    if isinstance(image, Image.Image):
        shape, item = (image.height, image.width, len(image.getbands())), 1
    else:
        shape, item = image.values.shape, image.values.dtype.itemsize
    if shape[0] * shape[1] <= SERVED.pixels and math.prod(shape) * item <= FIT_BYTES:
        return image
    factor = factor_of(shape, item)
    if isinstance(image, Image.Image):
        if image.mode not in ("L", "RGB", "RGBA", "LA"):
            transparent = "A" in image.mode or "transparency" in image.info
            image = image.convert("RGBA" if transparent else "RGB")
        return image.reduce(factor)
    return averaged(image, factor)


def factor_of(shape: tuple[int, ...], item: int) -> int:
    """By how much each side has to shrink."""
    over = max(shape[0] * shape[1] / FIT_PIXELS, math.prod(shape) * item / FIT_BYTES, 1.0)
    return math.ceil(math.sqrt(over))


def averaged(raw: Raw, factor: int) -> Raw:
    """Means over factor x factor pixels, of what was measured."""
    values = raw.values
    lost = raw.nodata if raw.nodata is not None else np.nan
    rows, columns = values.shape[0] // factor, values.shape[1] // factor
    result = np.empty((rows, columns, values.shape[2]), values.dtype)
    for row in range(rows):
        band = replace(raw, values=values[row * factor : (row + 1) * factor, : columns * factor])
        result[row] = block_means(band.measured, factor, lost, values.dtype)
    alpha = raw.alpha
    if alpha is not None:
        cut = alpha[: rows * factor : factor, : columns * factor : factor]
        alpha = np.ascontiguousarray(cut)
    return replace(raw, values=result, alpha=alpha)


def block_means(band: npt.NDArray[Any], factor: int, lost: float, kind: Any) -> npt.NDArray[Any]:
    """[factor, W, C] -> [W / factor, C]."""
    blocks = band.reshape(factor, -1, factor, band.shape[2]).astype(np.float64)
    known = ~np.isnan(blocks)
    count = known.sum(axis=(0, 2))
    total = np.where(known, blocks, 0.0).sum(axis=(0, 2))
    means = np.where(count > 0, total / np.maximum(count, 1), lost)
    return (means if kind.kind == "f" else np.rint(means)).astype(kind)
