"""Known faults of cameras and pipelines, as changes of the crops that an encoder is given.

Not every strength matters: what a null keeps is the way a fault moves images, which weaker ones share.

N images, H x W pixels, C channels.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

FAULT_IMAGES = 256  # that show a null what a fault does; each is seen with and without it
Crops = npt.NDArray[np.uint8]  # [N, H, W, C]

DARKER, BRIGHTER, FLATTER = 0.7, 1.4, 0.6  # times brightness, contrast
BLUR_PX = 1.0  # of the crop
NOISE = 15.0  # standard deviation, of 255
QUALITY = 15  # of JPEG
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601


def faults(channels: int) -> dict[str, Callable[[Crops], Crops]]:
    """By the names that nulls know (jepack.measures.FAULTS), those that such images can have."""
    found: dict[str, Callable[[Crops], Crops]] = {
        "darker": lambda crops: rounded(crops * DARKER),
        "brighter": lambda crops: rounded(crops * BRIGHTER),
        "flatter": flatter,
        "blurred": lambda crops: each(crops, blurred),
        "noisy": noisy,
        "compressed": lambda crops: each(crops, compressed),
    }
    if channels == 3:
        found["grey"] = lambda crops: np.repeat(rounded(crops @ np.array(LUMA))[..., None], 3, -1)
        found["red for blue"] = lambda crops: np.ascontiguousarray(crops[..., ::-1])
    return found


def rounded(values: npt.NDArray[np.floating]) -> Crops:  # type: ignore[type-arg]
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def flatter(crops: Crops) -> Crops:
    middle = crops.mean(axis=(1, 2, 3), keepdims=True)
    return rounded((crops - middle) * FLATTER + middle)


def noisy(crops: Crops) -> Crops:
    """The same noise whenever it is asked for, another in each image."""
    return rounded(crops + np.random.default_rng(5).normal(0, NOISE, crops.shape))


def each(crops: Crops, change: Callable[[Image.Image], Image.Image]) -> Crops:
    """Colour as pictures, other numbers of channels plane by plane."""
    colour = crops.shape[3] == 3
    pictures = crops if colour else crops.transpose(0, 3, 1, 2).reshape(-1, *crops.shape[1:3])
    changed = np.stack([np.asarray(change(Image.fromarray(picture))) for picture in pictures])
    if colour:
        return changed
    count, height, width, channels = crops.shape
    return changed.reshape(count, channels, height, width).transpose(0, 2, 3, 1)


def blurred(picture: Image.Image) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(BLUR_PX))


def compressed(picture: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=QUALITY)
    return Image.open(stream)
