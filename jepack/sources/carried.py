"""A part of a larger file -> bytes of a file of its own, which are decoded to the same picture."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from jepack.decoding import DEPTH, Raw, channels_first, need
from jepack.errors import DataError


def carried(image: Image.Image | Raw) -> bytes:
    """npy for plain values; PNG or TIFF where there is more to tell: a palette, transparency, nodata, ..."""
    stream = io.BytesIO()
    if isinstance(image, Image.Image):
        if image.mode == "L" and not image.info.get("transparency"):
            np.save(stream, np.asarray(image), allow_pickle=False)
            return stream.getvalue()
        keeps = image.mode in ("1", "LA", "RGB", "RGBA", "P")
        picture = image if keeps else image.convert("RGBA" if "A" in image.mode else "RGB")
        picture.save(stream, "PNG", compress_level=1)
        return stream.getvalue()
    values = image.values
    nodata = image.nodata if image.missing is not None else None
    if nodata is not None and values.dtype.kind == "f":
        values, nodata = image.measured.astype(values.dtype), None
    plain = nodata is None and image.alpha is None and not image.inverted and image.bits == 16
    if plain and not (image.colour and values.shape[2] > 3) and reads_back(values.shape):
        flat = values[..., 0] if values.shape[2] == 1 else values
        np.save(stream, np.ascontiguousarray(flat), allow_pickle=False)
        return stream.getvalue()
    extras = ["unspecified"] * (values.shape[2] - (3 if image.colour else 1))
    if image.alpha is not None:
        values = np.concatenate([values, image.alpha[..., None]], axis=2)
        extras.append("unassalpha")
    tags = [] if nodata is None else [(42113, "s", 0, f"{nodata!r}", True)]
    photometric = "miniswhite" if image.inverted else "rgb" if image.colour else "minisblack"
    single = values.shape[2] == 1
    need("tifffile", "tiff").imwrite(
        stream, values[..., 0] if single else np.ascontiguousarray(values), photometric=photometric,
        planarconfig=None if single else "contig", extrasamples=extras or None, extratags=tags,
        metadata=None, description=None if image.bits == 16 else f"{DEPTH} {image.bits}",
    )  # fmt: skip
    return stream.getvalue()


def reads_back(shape: tuple[int, ...]) -> bool:
    """Whether the shape of an npy file tells that its last axis holds the channels."""
    try:
        return shape[2] == 1 or not channels_first(shape, None)
    except DataError:
        return False
