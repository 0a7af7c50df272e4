"""The bundle's golden images as files to send, and the comparison of what came back."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from jepack.bundle.contents import OUTPUTS
from jepack.bundle.folder import cosine
from jepack.decoding import Pixels, Preprocessing, hidden


def golden_file(crop_HWC: Pixels, preprocessing: Preprocessing) -> bytes:
    """A file whose preprocessing gives back exactly this crop: [size, size, C] framed in black.

    Its sides are those the shorter side is resized to, so nothing is resized, only cropped. PNG where
    that can hold it; npy with a window (values that it shows as this crop) or other channels.
    """
    size, channels = preprocessing.size, preprocessing.channels
    side = int(size / preprocessing.crop_pct)
    start = round((side - size) / 2.0)
    canvas = np.zeros((side, side, channels), np.uint8)
    canvas[start : start + size, start : start + size] = crop_HWC
    stream = io.BytesIO()
    if isinstance(preprocessing.window, tuple):
        np.save(stream, hidden(canvas, preprocessing.window))
    elif channels not in (1, 3):
        np.save(stream, canvas)
    else:
        Image.fromarray(canvas[..., 0] if channels == 1 else canvas).save(stream, "PNG")
    return stream.getvalue()


def difference(
    found: dict[str, npt.NDArray[Any]], golden: dict[str, npt.NDArray[Any]]
) -> str | None:
    """What differs between a server's answers and the golden ones, None when they agree.

    Agree: cosine >= 0.999 and no value off by more than a hundredth of the largest; tight enough to
    catch wrong weights or pixels, wide enough for a half-precision engine.
    """
    for output in OUTPUTS:
        got, want = found[output], golden[output][: len(found[output])]
        if got.shape != want.shape or not np.isfinite(got).all():
            return f"{output} has shape {got.shape} or non-finite values, golden has {want.shape}"
        lowest, off = float(cosine(got, want).min()), float(np.abs(got - want).max())
        if lowest < 0.999 or off > 0.01 * max(1.0, float(np.abs(want).max())):
            return f"{output} is off by {off:.3g}, cosine {lowest:.5f}"
    return None
