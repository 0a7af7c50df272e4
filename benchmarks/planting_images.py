"""A copy of a data set with faults planted in it, and the list of them (for benchmarks.planting)."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from jepack.sources import ImageFile, find_images

EACH = 10  # copies of each kind; every second one lies across the split
TEST = 0.2  # share of the images in the folder test/
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


def plant(
    data: Path, out: Path, other: Path | None, flipped: float, labels: list[str], seed: int
) -> Planted:
    """A copy of `data` (class folders) at `out`/train and /test with faults; of the classes `labels` alone,
    where named. `flipped`: share of the labels that are changed."""
    rng, planted = np.random.default_rng(seed), Planted()
    files = [one for one in find_images(data) if not labels or one.label in labels]
    classes = sorted({str(one.label) for one in files})
    for name in classes:
        for part in ("train", "test"):
            (out / part / name).mkdir(parents=True)
    parts = np.where(rng.random(len(files)) < TEST, "test", "train")
    order = rng.permutation(len(files))
    wrong, rest = np.split(order, [round(flipped * len(files))])
    for at in wrong:
        label = str(rng.choice([one for one in classes if one != files[at].label]))
        name = f"{parts[at]}/{label}/{files[at].path.name}"
        planted.flipped[name] = str(files[at].label)
        shutil.copyfile(files[at].path, out / name)
    for at in rest:
        shutil.copyfile(files[at].path, out / place(files[at], parts[at]))
    taken = iter(rest)
    for kind in COPIES:
        for number in range(EACH):
            at = next(taken)
            mine = parts[at] if number % 2 else {"train": "test", "test": "train"}[parts[at]]
            name = copy_of(files[at], kind, out, f"{mine}/{files[at].label}/copy-{kind}-{number}")
            planted.copies[frozenset((place(files[at], parts[at]), name))] = kind
    plant_strangers(files, out, other, rng, planted, classes)
    plant_bad(files, taken, out, rng, planted)
    return planted


def place(image: ImageFile, part: str) -> str:
    return f"{part}/{image.label}/{image.path.name}"


def square(image: Image.Image, share: float) -> Image.Image:
    """The middle `share` of each side, a little off the centre, at the old size."""
    width, height = image.size
    left, top = round((1 - share) * 0.4 * width), round((1 - share) * 0.6 * height)
    cut = image.crop((left, top, left + round(share * width), top + round(share * height)))
    return cut.resize((width, height), Image.Resampling.BICUBIC)


COPIES = {
    "exact": lambda image: image,
    "JPEG 90": lambda image: image,
    "JPEG 50": lambda image: image,
    "half size": lambda image: image.resize(
        (image.width // 2, image.height // 2), Image.Resampling.LANCZOS
    ),
    "crop 90 %": lambda image: square(image, 0.9),
    "crop 75 %": lambda image: square(image, 0.75),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def copy_of(image: ImageFile, kind: str, out: Path, name: str) -> str:
    """Write a copy; its id."""
    name = name.replace(" ", "")
    if kind == "exact":  # the same bytes
        name += image.path.suffix
        shutil.copyfile(image.path, out / name)
        return name
    with Image.open(image.path) as opened:
        picture = opened.convert("RGB" if opened.mode not in ("L", "I;16", "I") else opened.mode)
    if kind.startswith("JPEG"):
        name += ".jpg"
        picture.convert("RGB").save(out / name, quality=int(kind.split()[1]))
        return name
    COPIES[kind](picture).save(out / f"{name}.png")
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
        name = f"train/{rng.choice(classes)}/foreign-{number}.png"
        made.convert(mode).resize(size).save(out / name)
        planted.foreign.add(name)


def plant_bad(
    files: list[ImageFile],
    taken: Iterator[int],
    out: Path,
    rng: np.random.Generator,
    planted: Planted,
) -> None:
    """Blank, over-exposed, elongated and broken files."""
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
            name = f"train/{image.label}/{kind}-{number}.png"
            Image.fromarray(array.astype(np.uint8)).save(out / name)
            getattr(planted, kind).add(name)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        whole = stream.getvalue()
        name = f"train/{image.label}/broken-{number}.png"
        (out / name).write_bytes((whole[: len(whole) // 3], b"", b"no picture")[number % 3])
        planted.broken.add(name)
