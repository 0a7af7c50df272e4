"""The work of `jepack views`: images are cut and lit as training would, and drawn a row each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from jepack.decoding import Preprocessing
from jepack.errors import DataError
from jepack.names import shown as shown_name
from jepack.names import tell
from jepack.sources import ImageFile, Source, find_images
from jepack.terminal import drawing
from training.data import (
    Decoded,
    Fetched,
    contents_for,
    decode_file,
    gathered,
    guess_channels,
    measure_window,
)
from training.settings import Preset, TrainConfig
from training.settings import preset as preset_of
from training.views import add_noise, crop_boxes, cut_views, draw, fitted


def draw_sheet(
    data: str,
    out: Path,
    config: TrainConfig,
    *,
    images: int,
    views: tuple[int, int],
    size: int,
    window: str | None,
    seed: int,
) -> int:
    """Write the picture of `views` (large, small) of each image; how many images it shows."""
    preset = preset_of(config.preset, config.view_overrides)
    source, notes = Source.of(data), list[str]()
    files = find_images(
        source, parts=True, notes=notes, tile=config.tile, stride=config.tile_stride
    )
    tell(Console(stderr=True), notes)
    channels = config.channels or guess_channels(files)
    span = measure_window(files, window or config.window, channels)
    order = np.random.default_rng([seed, 5]).permutation(len(files))
    chosen: list[tuple[ImageFile, Decoded]] = []
    refused: list[str] = []
    for number in order.tolist():
        if len(chosen) == images or len(refused) > 20:
            break
        try:
            side = round(1.25 * size)
            image = decode_file(files[number], side, channels, span, config.crop_mode)
            chosen.append((files[number], image))
        except DataError as error:
            refused.append(f"{files[number].name}: {error}")
    if not chosen:
        raise DataError(f"{source}: none of the images tried can be read: {refused[0]}")
    pictures = [image for _, image in chosen]
    look = Preprocessing(
        size=size, channels=channels, window=span, crop_mode=config.crop_mode,
        mean=mean_of(pictures), std=(1.0,) * channels,
    )  # fmt: skip
    large = make(pictures, preset, views[0], size, preset.global_scale, seed, look)
    little = round(size * 0.44)
    small = make(pictures, preset, views[1], little, preset.local_scale, seed + 1, look)
    draw_grid(out, chosen, large, small, config.preset, preset, config.view_overrides)
    return len(chosen)


def make(
    chosen: list[Decoded],
    preset: Preset,
    views: int,
    size: int,
    scale: tuple[float, float],
    seed: int,
    look: Preprocessing,
) -> Any:
    """[V, B, S, S, C] uint8, as training on the CPU cuts them, noise included."""
    pictures = [image.pixels for image in chosen]
    numbers = draw(views, len(pictures), seed=seed, step=0, preset=preset)
    shapes = np.array([picture.shape[:2] for picture in pictures])
    regions, masks = gathered(chosen)
    contents = contents_for(pictures, masks, preset)
    fetched = Fetched(pictures, shapes, regions, masks, np.arange(len(pictures)))
    fetched, contents = fitted(fetched, contents, look)
    boxes = crop_boxes(
        fetched.shapes, numbers, size, scale, preset, fetched.regions, fetched.masks, contents,
        inside=fetched.inside, squash=look.crop_mode == "squash",
    )  # fmt: skip
    cut = cut_views(fetched.images, boxes, numbers=numbers, preset=preset)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        noisy = add_noise(torch.from_numpy(cut).float() / 255, preset)
    return (noisy * 255).round().byte().numpy()


def mean_of(chosen: list[Decoded]) -> tuple[float, ...]:
    """Per channel, on the 0..1 scale."""
    means = [image.pixels.mean(axis=(0, 1)) / 255 for image in chosen]
    return tuple(float(value) for value in np.mean(means, axis=0))


def shown(picture_HWC: Any) -> Any:
    """[H, W, 3] of any number of channels: grey, the colours, or the first three bands."""
    channels = picture_HWC.shape[2]
    if channels == 3:
        return picture_HWC
    return np.repeat(picture_HWC[..., :1], 3, axis=2) if channels < 3 else picture_HWC[..., :3]


def draw_grid(
    out: Path,
    chosen: Any,
    large: Any,
    small: Any,
    name: str,
    preset: Preset,
    changed: dict[str, Any],
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = len(chosen), 1 + len(large) + len(small)
    figure = Figure(figsize=(1.55 * columns + 0.2, 1.75 * rows + 1.0), layout="constrained")
    FigureCanvasAgg(figure)
    title = f"{name}: {preset.reason}"
    if changed:
        title += "\nchanged: " + ", ".join(f"{k} = {v}" for k, v in changed.items())
    figure.suptitle(title, fontsize=11, wrap=True)
    grid = figure.subplots(rows, columns, squeeze=False)
    for row, (file, image) in enumerate(chosen):
        cells = [image.pixels, *(view[row] for view in large), *(view[row] for view in small)]
        names = ["original", *(f"large {n + 1}" for n in range(len(large)))]
        names += [f"small {n + 1}" for n in range(len(small))]
        for axes, cell, caption in zip(grid[row], cells, names, strict=True):
            axes.imshow(shown(cell), interpolation="nearest", vmin=0, vmax=255)
            axes.set(xticks=[], yticks=[])
            for side in axes.spines.values():
                side.set_color("#2563eb" if caption == "original" else "#d1d5db")
            if row == 0:
                axes.set_title(caption, fontsize=9)
        label = shown_name(file.path.name if file.part is None else file.part)
        label = label if len(label) < 22 else f"…{label[-20:]}"
        grid[row][0].set_xlabel(label, fontsize=7, parse_math=False)
    drawing.save(figure, out, dpi=110)
