"""The images of benchmarks/drift.py, changed and unchanged, as projections of a bundle's encoder. torch."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from rich.console import Console

from jepack.bundle import Bundle
from jepack.decoding import Preprocessing, preprocess
from jepack.encoder import Encoder, EncoderGraph, load_encoder
from jepack.faults import FAULT_IMAGES, faults
from jepack.measures import Calibration
from jepack.measures.isotropy import fit_calibration
from jepack.sources import ImageFile, find_images, record_of

FAULT = "fault: "  # before the name of a fault that the null knows
NOISE = 0.05  # standard deviations of each weight tensor, added to swap the model
REFITTED = 500  # images that calibrate the swapped model anew
Rows = Any  # [N, D]


def jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    def change(image: Image.Image) -> Image.Image:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality)
        return Image.open(stream)

    return change


def blur(radius: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.filter(ImageFilter.GaussianBlur(radius))


def darker(share: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.point(lambda value: value * (1 - share))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "grey for colour": lambda image: ImageOps.grayscale(image).convert("RGB"),
    "inverted": ImageOps.invert,
    "JPEG quality 5": jpeg(5),
    "blur of 3 px": blur(3),
    "20 % darker": darker(0.2),
    "blur of 1 px": blur(1),
    "JPEG quality 30": jpeg(30),
    "5 % darker": darker(0.05),
}
ORDINARY, OTHER, WRONG = "unchanged", "another domain", "wrong normalisation"
NEW, KEPT, ANEW = "new class", "swapped model", "swapped model, calibrated anew"


def embed(
    bundle: Bundle, pool: Path | None, other: Path, new: Path | None, most: int, console: Console
) -> dict[str, Rows]:
    """Projections of images that the encoder never saw, unchanged and changed, and of strange ones."""
    encoder, calibration = load_encoder(bundle)
    look = bundle.preprocessing
    graph = EncoderGraph(encoder, look, calibration).eval()
    fitted, unseen = own_images(bundle)
    crops = crops_of(some(unseen if pool is None else find_images(pool), most), look)
    wrong = EncoderGraph(encoder, wrong_look(look), calibration).eval()
    found = {ORDINARY: run(graph, crops), WRONG: run(wrong, crops)}
    for name, fault in faults(look.channels).items():
        found[FAULT + name] = run(graph, fault(crops[:FAULT_IMAGES]))
    kept, anew = swapped(encoder, look, calibration, crops_of(some(fitted, REFITTED), look))
    found |= {KEPT: run(kept, crops), ANEW: run(anew, crops)}
    found[OTHER] = run(graph, crops_of(some(find_images(other), most), look))
    if new is not None:
        found[NEW] = run(graph, crops_of(some(find_images(new), most), look))
    files = some(unseen if pool is None else find_images(pool), most)
    for name, change in CHANGES.items():
        console.print(f"embedding: {name}", highlight=False)
        found[name] = run(graph, crops_of(files, look, change))
    return found


def own_images(bundle: Bundle) -> tuple[list[ImageFile], list[ImageFile]]:
    """What the encoder was fitted on, and what its record says was held out."""
    record = record_of(bundle.manifest)
    assert record.data is not None, "the bundle's images are not on this machine"
    every = find_images(record.data)
    seen = record.fitted_on(every)
    return (
        [file for file, fitted in zip(every, seen, strict=True) if fitted],
        [file for file, fitted in zip(every, seen, strict=True) if not fitted],
    )


def some(files: list[ImageFile], most: int) -> list[ImageFile]:
    """The same ones whenever asked."""
    return [files[row] for row in np.random.default_rng(0).permutation(len(files))[:most]]


def wrong_look(look: Preprocessing) -> Preprocessing:
    """The statistics of ImageNet, or (where those are the right ones) a plain 0.5."""
    plain, channels = look.mean[0] == 0.5, look.channels
    means = (0.485, 0.456, 0.406) if plain else (0.5,) * 3
    spreads = (0.229, 0.224, 0.225) if plain else (0.5,) * 3
    return replace(look, mean=means[:channels], std=spreads[:channels])


def swapped(
    encoder: Encoder, look: Preprocessing, calibration: Calibration, crops: Any
) -> tuple[EncoderGraph, EncoderGraph]:
    """A model like the one expected: noise on its weights, with the same calibration and with its own."""
    other, generator = copy.deepcopy(encoder), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in other.backbone.parameters():
            if weight.ndim > 1:
                noise = torch.randn(weight.shape, generator=generator)
                weight.add_(noise * weight.std() * NOISE)
    width = len(calibration.mean)
    raw = EncoderGraph(other, look, Calibration(np.zeros(width), np.eye(width))).eval()
    refitted = fit_calibration(run(raw, crops))
    return (
        EncoderGraph(other, look, calibration).eval(),
        EncoderGraph(other, look, refitted).eval(),
    )


def crops_of(files: list[ImageFile], look: Preprocessing, change: Any = None) -> Any:
    return np.stack([preprocess.load(changed(file, change), look) for file in files])


def changed(file: ImageFile, change: Any) -> bytes:
    content = file.read()
    if change is None:
        return content
    with Image.open(io.BytesIO(content)) as image:
        stream = io.BytesIO()
        change(image.convert("RGB")).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def run(graph: EncoderGraph, crops: Any) -> Rows:
    found = []
    with torch.inference_mode():
        for start in range(0, len(crops), 32):
            found.append(graph(torch.from_numpy(crops[start : start + 32]))[1].numpy())
    return np.concatenate(found)
