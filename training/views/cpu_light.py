"""light.py's changes for views on the CPU: uint8 in, uint8 out, one view at a time in OpenCV.

Same numbers, same order, results within a few grey levels of the float version on the device: changes
that act on single values become tables of 256 entries, changes of colour 3 x 3 matrices, and nothing
is converted to float, which is what made the batched version slow on a CPU (benchmarks/views.py).
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from jepack.decoding import Pixels
from training.settings import Preset
from training.views.light import LUMA, STAINS, Floats

MOST_CHANNELS = 128  # that OpenCV takes at once
LEVELS = np.arange(256, dtype=np.float32)
DENSITY = -np.log(np.maximum(LEVELS, 1.0) / 255).astype(np.float32)
LUMA_WEIGHTS = np.array(LUMA, dtype=np.float32)


def retouch(view_HWC: Pixels, light: Floats, extra: Floats, preset: Preset) -> Pixels:
    """Light, colour and focus of one view; noise is left to the batch. May return its argument."""
    x: Any = view_HWC
    channels = x.shape[2]
    u: list[float] = light.tolist()
    if preset.stain > 0 and channels == 3:
        x = restain(x, extra[1:7], preset.stain)
    if u[0] < preset.jitter:
        x = jitter(x, u, preset)
    if channels == 3 and u[5] < preset.gray:
        x = cv2.transform(x, np.tile(LUMA_WEIGHTS, (3, 1)))
    if channels > 1 and float(extra[7]) < preset.band_dropout:
        band = min(channels - 1, int(float(extra[8]) * channels))
        x = x.copy()
        x[..., band] = round(float(x[..., band].mean()))
    if u[6] < preset.blur:
        low, high = preset.blur_sigma
        x = blur(x, low + u[7] * (high - low), high)
    if u[8] < preset.solarise:
        x = cv2.LUT(x, np.where(LEVELS >= 127.5, 255 - LEVELS, LEVELS).astype(np.uint8))
    return np.asarray(x, dtype=np.uint8).reshape(view_HWC.shape)


def table(values: npt.NDArray[np.float32]) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def jitter(x: Any, u: list[float], preset: Preset) -> Any:
    def factor(column: int, strength: float) -> float:
        return 1 + (2 * u[column] - 1) * strength

    colour = x.shape[2] == 3
    if preset.brightness > 0:
        x = cv2.LUT(x, table(LEVELS * factor(1, preset.brightness)))
    if preset.contrast > 0:
        means = x.reshape(-1, x.shape[-1] if x.ndim == 3 else 1).mean(axis=0)
        mean = float(means @ LUMA_WEIGHTS) if colour else float(means.mean())
        x = cv2.LUT(x, table(mean + (LEVELS - mean) * factor(2, preset.contrast)))
    if colour and (preset.saturation > 0 or preset.hue > 0):
        x = cv2.transform(
            x, colour_matrix(factor(3, preset.saturation), (2 * u[4] - 1) * preset.hue)
        )
    return x


def colour_matrix(saturation: float, turns: float) -> npt.NDArray[np.float32]:
    """Saturation about luma, then a turn about the grey axis by a share of the circle."""
    saturate = saturation * np.eye(3) + (1 - saturation) * np.tile(LUMA_WEIGHTS, (3, 1))
    angle = turns * 2 * math.pi
    cos, sin = math.cos(angle), math.sin(angle) / math.sqrt(3)
    third = (1 - cos) / 3
    same, after, before = cos + third, third - sin, third + sin
    turn = np.array([[same, after, before], [before, same, after], [after, before, same]])
    return (turn @ saturate).astype(np.float32)


def restain(x_HW3: Any, u: Floats, strength: float) -> Any:
    stains = np.array(STAINS, dtype=np.float64)
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    factor = 1 + (2 * u[:3].astype(np.float64) - 1) * strength
    shift = (2 * u[3:].astype(np.float64) - 1) * strength / 10
    matrix = stains.T @ np.diag(factor) @ np.linalg.inv(stains).T
    affine = np.concatenate([matrix, (stains.T @ shift)[:, None]], axis=1).astype(np.float32)
    density = cv2.transform(DENSITY[x_HW3], -affine)
    return np.minimum(cv2.exp(density) * 255 + 0.5, 255).astype(np.uint8)


def blur(x: Any, sigma: float, most: float) -> Any:
    radius = max(1, min(math.ceil(3 * most), (min(x.shape[:2]) - 1) // 2))
    radius = min(radius, max(1, math.ceil(4 * sigma)))  # beyond lie less than a 10,000th
    side = 2 * radius + 1

    def smooth(some: Any) -> Any:
        return cv2.GaussianBlur(some, (side, side), sigma, borderType=cv2.BORDER_REFLECT_101)

    if x.ndim < 3 or x.shape[2] <= MOST_CHANNELS:
        return smooth(x)
    groups = range(0, x.shape[2], MOST_CHANNELS)
    chunks = [smooth(np.ascontiguousarray(x[..., n : n + MOST_CHANNELS])) for n in groups]
    return np.concatenate([chunk.reshape(*x.shape[:2], -1) for chunk in chunks], axis=2)
