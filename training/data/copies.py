"""Which images are copies of one another, by what small pictures of them show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jepack.decoding import Pixels
from training.data.images import Ints

HASH_BITS = 3
SAME_COSINE = 0.999


@dataclass(frozen=True)
class Copies:
    """Test images that look like a training image."""

    pairs: tuple[tuple[int, int], ...]  # (test, training) indices
    share: float  # of the test images


def copies_across(images: Sequence[Pixels], train: Ints, test: Ints) -> Copies:
    """Near duplicates: copies that were brightened, recompressed or resized, not other shots of a thing.

    Candidates share all but 3 bits of a gradient hash; small pictures of both then decide. On solar
    cells, which all look alike, copies reach a cosine of .9994 and more, strangers .9988 at most.
    Flat images have no gradients and are left out.
    """
    thumbprints = [thumbprint_of(image) for image in images]
    hashes = np.array([each.hash for each in thumbprints], dtype=np.uint64)
    plain = np.array([each.plain for each in thumbprints])
    known, asked = train[~plain[train]], test[~plain[test]]
    pairs = []
    for start in range(0, len(asked), 256):
        block = asked[start : start + 256]
        bits = popcount(np.bitwise_xor(hashes[block][:, None], hashes[known][None]))
        for row, place in zip(*np.nonzero(bits <= HASH_BITS), strict=True):
            one, other = int(block[row]), int(known[place])
            if thumbprints[one].same_as(thumbprints[other]):
                pairs.append((one, other))
    touched = {pair[0] for pair in pairs}
    return Copies(tuple(pairs), len(touched) / max(1, len(test)))


@dataclass(frozen=True)
class Thumbprint:
    """What two copies of a picture share."""

    hash: int  # 64 bits: whether each of 8 x 9 cells is brighter than its right neighbour
    detail: npt.NDArray[
        np.float32
    ]  # [1024], unit length: what a 32 x 32 picture shows beyond its blur
    plain: bool  # nothing to be seen

    def same_as(self, other: Thumbprint) -> bool:
        return float(self.detail @ other.detail) > SAME_COSINE


def thumbprint_of(image_HWC: Pixels) -> Thumbprint:
    import cv2

    grey = np.ascontiguousarray(image_HWC.mean(axis=2, dtype=np.float32))

    def small(size: tuple[int, int]) -> Any:
        shrinks = grey.shape[0] > size[1] and grey.shape[1] > size[0]
        return cv2.resize(grey, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)

    cells, picture = small((9, 8)), small((32, 32))
    bits = (cells[:, 1:] > cells[:, :-1]).flatten()
    detail = (picture - cv2.blur(picture, (5, 5))).flatten()
    detail -= detail.mean()
    length = float(np.linalg.norm(detail))
    return Thumbprint(
        hash=int(np.packbits(bits).view(np.uint64)[0]),
        detail=(detail / max(length, 1e-6)).astype(np.float32),
        plain=float(grey.max() - grey.min()) < 8,
    )


def popcount(values: npt.NDArray[np.uint64]) -> Ints:
    """Bits that are set in each value. (NumPy has bitwise_count from 2.0 on only.)"""
    table = np.array([bin(n).count("1") for n in range(256)], dtype=np.uint8)
    return table[values[..., None].view(np.uint8)].sum(axis=-1, dtype=np.int64)
