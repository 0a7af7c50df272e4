"""What thumbnails show of every image: a small grey copy, and figures of light and shape.

N images, S pixels of a side.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from app.checking.material import Floats, Progress
from app.store import VectorStore

SIDE = 64  # px of the grey copy, whatever the picture's shape
BRIGHT, DARK = 250, 5  # grey levels of 255 from which on a pixel tells nothing more
BLOCK = 500  # thumbnails read at once


@dataclass(frozen=True, eq=False)
class Pictures:
    """Of all images, in stored order."""

    grey_NSS: npt.NDArray[np.uint8]
    contrast: Floats  # [N] standard deviation of grey, levels of 255
    bright: Floats  # [N] share of pixels at BRIGHT or above
    dark: Floats  # [N] share at DARK or below
    longer: Floats  # [N] longer side over shorter


def look(store: VectorStore, ids: Sequence[str], on_progress: Progress) -> Pictures:
    """Decode every thumbnail once. One that is none is grey and square."""
    grey_NSS = np.full((len(ids), SIDE, SIDE), 128, np.uint8)
    figures = np.ones((4, len(ids)), np.float32)
    for start in range(0, len(ids), BLOCK):
        for at, row in enumerate(store.get(ids[start : start + BLOCK]), start=start):
            try:
                with Image.open(io.BytesIO(row.thumbnail)) as opened:
                    whole = opened.convert("L")
            except (OSError, ValueError, SyntaxError):
                continue
            values = np.asarray(whole, np.float32)
            figures[:, at] = (
                values.std(),
                (values >= BRIGHT).mean(),
                (values <= DARK).mean(),
                max(whole.size) / min(whole.size),
            )
            grey_NSS[at] = np.asarray(whole.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        on_progress(min(1.0, (start + BLOCK) / len(ids)))
    return Pictures(grey_NSS, *figures)
