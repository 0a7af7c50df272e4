"""A part of a larger file -> bytes of a file of its own, which are decoded to the same picture."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from jepack.decoding import DEPTH, Raw, channels_first, need
from jepack.errors import DataError


def carried(found: Image.Image | Raw) -> bytes:
    """npy for plain values; PNG or TIFF where there is more to tell: a palette, transparency, nodata, ..."""
    stream = io.BytesIO()
    if isinstance(found, Image.Image):
        if found.mode == "L" and not found.info.get("transparency"):
            np.save(stream, np.asarray(found), allow_pickle=False)
            return stream.getvalue()
        keeps = found.mode in ("1", "LA", "RGB", "RGBA", "P")
        picture = found if keeps else found.convert("RGBA" if "A" in found.mode else "RGB")
        picture.save(stream, "PNG", compress_level=1)
        return stream.getvalue()
    values = found.values
    nodata = found.nodata if found.missing is not None else None
    if nodata is not None and values.dtype.kind == "f":
        values, nodata = found.measured.astype(values.dtype), None
    plain = nodata is None and found.alpha is None and not found.inverted and found.bits == 16
    if plain and not (found.colour and values.shape[2] > 3) and reads_back(values.shape):
        flat = values[..., 0] if values.shape[2] == 1 else values
        np.save(stream, np.ascontiguousarray(flat), allow_pickle=False)
        return stream.getvalue()
    extras = ["unspecified"] * (values.shape[2] - (3 if found.colour else 1))
    if found.alpha is not None:
        values = np.concatenate([values, found.alpha[..., None]], axis=2)
        extras.append("unassalpha")
    tags = [] if nodata is None else [(42113, "s", 0, f"{nodata!r}", True)]
    photometric = "miniswhite" if found.inverted else "rgb" if found.colour else "minisblack"
    single = values.shape[2] == 1
    need("tifffile", "tiff").imwrite(
        stream, values[..., 0] if single else np.ascontiguousarray(values), photometric=photometric,
        planarconfig=None if single else "contig", extrasamples=extras or None, extratags=tags,
        metadata=None, description=None if found.bits == 16 else f"{DEPTH} {found.bits}",
    )  # fmt: skip
    return stream.getvalue()


def reads_back(shape: tuple[int, ...]) -> bool:
    """Whether the shape of an npy file tells that its last axis holds the channels."""
    try:
        return shape[2] == 1 or not channels_first(shape, None)
    except DataError:
        return False
