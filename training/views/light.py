"""Light, colour and focus of whole batches, every image with its own numbers.

B images, C channels, H x W pixels; float images in 0..1, on any device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from training.parallel import upload
from training.settings import Preset

Floats = npt.NDArray[np.float32]

LIGHT_NUMBERS = 9
EXTRA_NUMBERS = 9
LUMA = (0.299, 0.587, 0.114)
# Optical density of haematoxylin, eosin and DAB per colour. Ruifrok and Johnston, 2001.
STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))


def photometry(
    images_BCHW: Tensor, light: Floats, preset: Preset, extra: Floats | None = None
) -> Tensor:
    """Change float images in 0..1; `light` [B, 9] and `extra` [B, 9] are uniform numbers.

    Columns of `light`: jitter?, brightness, contrast, saturation, hue, gray?, blur?, sigma, solarise?
    Columns of `extra`: angle (see views.py), six for stains, drop a band?, which band
    """
    device = images_BCHW.device
    exact = torch.promote_types(images_BCHW.dtype, torch.float32)  # of the numbers
    u = upload(light, device, exact)
    x = images_BCHW

    def some(column: int, probability: float, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """`x` with a change of those images alone that it falls to; not into the caller's tensor."""
        # Chosen on the CPU, where the numbers are: asking the device would wait for it.
        chosen = upload(np.flatnonzero(light[:, column] < probability), device)
        if not len(chosen):
            return x
        put = x.index_copy if x is images_BCHW else x.index_copy_
        return put(0, chosen, change(x[chosen], chosen))

    colour = x.shape[1] == 3
    if preset.stain > 0 and colour and extra is not None:
        x = restain(x, upload(extra[:, 1:7], device), preset.stain)
    if preset.jitter > 0:
        x = jitter(x, u, preset)
    if colour and preset.gray > 0:
        x = some(5, preset.gray, lambda part, _: luma(part).expand_as(part))
    if preset.band_dropout > 0 and x.shape[1] > 1 and extra is not None:
        x = drop_band(x, upload(extra[:, 7:9], device), preset.band_dropout)
    if preset.blur > 0:
        low, high = preset.blur_sigma
        x = some(
            6, preset.blur, lambda part, chosen: blur(part, low + u[chosen, 7] * (high - low), high)
        )
    if preset.solarise > 0:
        x = some(8, preset.solarise, lambda part, _: torch.where(part >= 0.5, 1 - part, part))
    return add_noise(x, preset)


def add_noise(x: Tensor, preset: Preset) -> Tensor:
    if preset.noise > 0:
        x = (x + torch.randn_like(x) * preset.noise).clamp(0, 1)
    return x


def jitter(x: Tensor, u: Tensor, preset: Preset) -> Tensor:
    """Brightness, contrast and colour; changes by nothing where the image is not to be changed."""
    signs = torch.where((u[:, :1] < preset.jitter), 2 * u - 1, 0)

    def factor(column: int, strength: float) -> Tensor:
        return (1 + signs[:, column, None, None, None] * strength).to(x.dtype)

    x = (x * factor(1, preset.brightness)).clamp(0, 1)
    mean = x.mean(dim=(2, 3), keepdim=True)  # of each channel; light is linear in them
    mean = luma(mean) if x.shape[1] == 3 else mean.mean(dim=1, keepdim=True)
    x = torch.lerp(mean, x, factor(2, preset.contrast)).clamp(0, 1)
    if x.shape[1] == 3 and (preset.saturation > 0 or preset.hue > 0):
        saturation = 1 + signs[:, 3] * preset.saturation
        turns = signs[:, 4] * preset.hue
        matrix = hue_matrix(turns) @ saturation_matrix(saturation)
        x = mix_channels(x, matrix.to(x.dtype)).clamp(0, 1)
    return x


def saturation_matrix(factor: Tensor) -> Tensor:
    """[B, 3, 3]: colours drawn towards (below 1) or away from their own grey."""
    gray = constant(LUMA, factor).expand(3, 3)
    same = torch.eye(3, device=factor.device, dtype=factor.dtype)
    return factor[:, None, None] * same + (1 - factor[:, None, None]) * gray


def hue_matrix(turns: Tensor) -> Tensor:
    """[B, 3, 3]: colours turned about the grey axis by `turns` of a full circle."""
    angle = turns * 2 * math.pi
    cos, sin = angle.cos(), angle.sin() / math.sqrt(3)
    third = (1 - cos) / 3
    same, after, before = cos + third, third - sin, third + sin
    rows = [
        torch.stack([same, after, before], -1),
        torch.stack([before, same, after], -1),
        torch.stack([after, before, same], -1),
    ]
    return torch.stack(rows, dim=1)


def mix_channels(x_B3HW: Tensor, matrix_B33: Tensor) -> Tensor:
    return torch.bmm(matrix_B33, x_B3HW.flatten(2)).view(x_B3HW.shape)


def restain(x_B3HW: Tensor, u: Tensor, strength: float) -> Tensor:
    """Change each stain's amount: a factor in 1 +- strength and a shift a tenth of that.

    Colour is unmixed into haematoxylin, eosin and a rest by optical density and mixed again.
    """
    stains, unmix = stain_matrices(x_B3HW.device)
    density = -torch.log(x_B3HW.float().clamp(min=1 / 255)).flatten(2)  # [B, 3, HW]
    amount = unmix.T @ density
    factor = 1 + (2 * u[:, :3, None] - 1) * strength
    shift = (2 * u[:, 3:, None] - 1) * strength / 10
    density = stains.T @ (amount * factor + shift)
    return torch.exp(-density).clamp(0, 1).to(x_B3HW.dtype).view(x_B3HW.shape)


@lru_cache(maxsize=8)
def stain_matrices(device: torch.device) -> tuple[Tensor, Tensor]:
    """[3, 3] stains of unit length, and the matrix that unmixes them."""
    stains = F.normalize(torch.tensor(STAINS, dtype=torch.float32), dim=1)
    return stains.to(device), torch.linalg.inv(stains).to(device)


def constant(values: tuple[float, ...], like: Tensor) -> Tensor:
    return _constant(values, like.device, like.dtype)


@lru_cache(maxsize=16)  # uploading it for every batch would make the GPU wait
def _constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, device=device, dtype=dtype)


def drop_band(x_BCHW: Tensor, u: Tensor, probability: float) -> Tensor:
    """Replace one channel of some images by its own mean."""
    channels = x_BCHW.shape[1]
    band = (u[:, 1] * channels).long().clamp(max=channels - 1)
    dropped = F.one_hot(band, channels).bool() & (u[:, :1] < probability)
    mean = x_BCHW.mean(dim=(2, 3), keepdim=True)
    return torch.where(dropped[:, :, None, None], mean, x_BCHW)


def blur(x_BCHW: Tensor, sigma: Tensor, most: float) -> Tensor:
    """Gaussian blur with a sigma per image, px; `most` is the largest sigma that can occur."""
    batch, channels, height, width = x_BCHW.shape
    radius = max(1, min(math.ceil(3 * most), (min(height, width) - 1) // 2))
    offsets = torch.arange(-radius, radius + 1, device=x_BCHW.device, dtype=sigma.dtype)
    kernel = torch.exp(-offsets.square() / (2 * sigma[:, None].square()))
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).to(x_BCHW.dtype)
    kernel = kernel.repeat_interleave(channels, dim=0)
    flat = x_BCHW.reshape(1, batch * channels, height, width)
    flat = F.pad(flat, (radius, radius, radius, radius), mode="reflect")
    groups = batch * channels
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=groups)
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=groups)
    return flat.reshape(x_BCHW.shape)


def luma(x_B3HW: Tensor) -> Tensor:
    weights = constant(LUMA, x_B3HW)
    return (x_B3HW * weights[:, None, None]).sum(dim=1, keepdim=True)
