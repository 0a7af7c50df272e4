"""Faults planted in real images, and what finds them: `jepack check`, cleanlab, imagededup. One run.

Planted: copies (exact, re-encoded, resized, cropped, mirrored), flipped labels, foreign images, blank,
over-exposed, elongated and broken files. Told per kind: precision (of what was found, the share that was
planted) and recall (of what was planted, the share that was found). Real faults of a data set count against
precision.

    pip install cleanlab 'imagededup>=0.3.3'     (imagededup: optional, in an environment of its own)
    jepack train runs/data/earth --recipe quickstart --preset satellite --out runs/earth
    jepack export runs/earth/bundle
    python -m benchmarks.planting runs/data/earth runs/earth/bundle --other runs/data/solar
"""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jepack.sources import ImageFile, find_images

OUT = Path(__file__).parent / "results" / "planting.json"
COPIES = ("exact", "re-encoded", "resized", "cropped", "mirrored")
EACH = 10  # copies of each kind
FLIPPED = 0.05  # share of the labels
FOREIGN = 0.01  # share of the images
BAD = 6  # files of each kind of bad picture


@dataclass
class Planted:
    """What was planted, by image id."""

    copies: dict[frozenset[str], str] = field(default_factory=dict)  # pair: kind
    flipped: dict[str, str] = field(default_factory=dict)  # id: true label
    foreign: set[str] = field(default_factory=set)
    blank: set[str] = field(default_factory=set)
    bright: set[str] = field(default_factory=set)
    elongated: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)


def plant(data: Path, out: Path, other: Path | None, seed: int, labels: list[str]) -> Planted:
    """A copy of `data` (class folders) at `out` with faults; of the classes `labels` alone, where named."""
    rng, planted = np.random.default_rng(seed), Planted()
    files = [one for one in find_images(data) if not labels or one.label in labels]
    classes = sorted({str(one.label) for one in files})
    for name in classes:
        (out / name).mkdir(parents=True)
    order = rng.permutation(len(files))
    flipped, rest = np.split(order, [round(FLIPPED * len(files))])
    for at in order:
        image, label = files[at], str(files[at].label)
        if at in set(flipped):
            label = str(rng.choice([one for one in classes if one != label]))
            planted.flipped[f"{label}/{image.path.name}"] = str(image.label)
        shutil.copyfile(image.path, out / label / image.path.name)
    taken = iter(rest)
    for kind in COPIES:
        for number in range(EACH):
            image = files[next(taken)]
            name = f"{image.label}/copy-{kind}-{number}"
            name = copy_of(image, kind, out, name)
            planted.copies[frozenset((f"{image.label}/{image.path.name}", name))] = kind
    plant_strangers(files, out, other, rng, planted, classes)
    plant_bad(files, taken, out, rng, planted)
    return planted


def copy_of(image: ImageFile, kind: str, out: Path, name: str) -> str:
    """Write a copy; its id."""
    if kind == "exact":
        name += image.path.suffix
        shutil.copyfile(image.path, out / name)
        return name
    with Image.open(image.path) as opened:
        picture = opened.convert("RGB" if opened.mode not in ("L", "I;16", "I") else opened.mode)
    width, height = picture.size
    if kind == "re-encoded":
        name += ".jpg"
        picture.convert("RGB").save(out / name, quality=60)
        return name
    if kind == "resized":
        picture = picture.resize((width // 2, height // 2), Image.Resampling.LANCZOS)
    elif kind == "cropped":  # 90 % of each side
        left, top = round(0.05 * width), round(0.05 * height)
        picture = picture.crop((left, top, width - left, height - top)).resize((width, height))
    else:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture.save(out / f"{name}.png")
    return f"{name}.png"


def plant_strangers(
    files: list[ImageFile],
    out: Path,
    other: Path | None,
    rng: np.random.Generator,
    planted: Planted,
    classes: list[str],
) -> None:
    """Photographs, handwriting, and images of another data set."""
    from sklearn.datasets import load_digits, load_sample_images

    with Image.open(files[0].path) as opened:
        size, mode = opened.size, "L" if opened.mode in ("L", "I;16", "I") else "RGB"
    photographs, digits = load_sample_images().images, load_digits().images
    others = find_images(other) if other is not None else []
    for number in range(round(FOREIGN * len(files))):
        which = number % (3 if others else 2)
        if which == 0:
            picture = photographs[number // 3 % 2]
            top, left = rng.integers(0, 200), rng.integers(0, 400)
            made = Image.fromarray(picture[top : top + 220, left : left + 220])
        elif which == 1:
            made = Image.fromarray(
                (255 - 16 * digits[rng.integers(len(digits))]).clip(0, 255).astype(np.uint8)
            )
        else:
            with Image.open(others[rng.integers(len(others))].path) as opened:
                made = opened.convert("RGB")
        name = f"{rng.choice(classes)}/foreign-{number}.png"
        made.convert(mode).resize(size).save(out / name)
        planted.foreign.add(name)


def plant_bad(
    files: list[ImageFile], taken: Any, out: Path, rng: np.random.Generator, planted: Planted
) -> None:
    for number in range(BAD):
        image = files[next(taken)]
        with Image.open(image.path) as opened:
            pixels = np.asarray(opened.convert("RGB"))
        noise = rng.integers(-1, 2, pixels.shape)
        made = {
            "blank": np.full(pixels.shape, int(pixels.mean())) + noise,
            "bright": np.clip(pixels.astype(float) * 4 + 80, 0, 255),
            "elongated": pixels[: max(8, pixels.shape[0] // 5)],
        }
        for kind, array in made.items():
            name = f"{image.label}/{kind}-{number}.png"
            Image.fromarray(array.astype(np.uint8)).save(out / name)
            getattr(planted, kind).add(name)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        whole = stream.getvalue()
        name = f"{image.label}/broken-{number}.png"
        (out / name).write_bytes((whole[: len(whole) // 3], b"", b"no picture")[number % 3])
        planted.broken.add(name)
