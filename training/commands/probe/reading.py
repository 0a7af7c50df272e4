"""The images that are probed, read and cropped."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from rich.console import Console

from jepack.decoding import Pixels, Preprocessing, preprocess
from jepack.errors import DataError, listed
from jepack.names import examples, marked_lines, tell
from jepack.sources import ENDED, ImageFile, Source, find_images, in_blocks
from jepack.terminal import counter

NEEDED = 20  # images of two classes


def find_labelled(source: Source, classes: str | None) -> tuple[list[ImageFile], list[str]]:
    """The images of `classes` (comma-separated; None: of all), and these classes' names in order."""
    notes = list[str]()
    files = [file for file in find_images(source, parts=True, notes=notes) if file.label]
    tell(Console(stderr=True), notes)
    wanted = classes.split(",") if classes else sorted({str(file.label) for file in files})
    files = [file for file in files if file.label in wanted]
    if len(files) < NEEDED or len(wanted) < 2:
        raise DataError(
            f"{source}: {len(files)} labelled images of {len(wanted)} classes ({examples(wanted)}); a probe "
            f"needs {NEEDED} of 2. A class is a folder, or the column `label` of a manifest"
        )
    return files, wanted


def read_images(files: Sequence[ImageFile], preprocessing: Preprocessing) -> Pixels:
    """[N, S, S, C] of all of them. Raises DataError naming those that cannot be read."""
    images, bad = read_those(files, preprocessing)
    if bad:
        raise DataError(f"{len(bad)} of {len(files)} images cannot be read:\n{listed(bad)}")
    return np.stack([image for image in images if image is not None])


def read_those(
    files: Sequence[ImageFile], preprocessing: Preprocessing
) -> tuple[list[Pixels | None], list[tuple[str, str]]]:
    """Each file's crop, None where it cannot be read, and the names and reasons of those."""
    images: list[Pixels | None] = []
    bad = []
    work = functools.partial(read_one, preprocessing=preprocessing)
    with counter("read") as show:
        for block in in_blocks(files, work, ended, workers=1):
            for found in block:
                if isinstance(found, str):
                    bad.append((files[len(images)].name, found))
                images.append(None if isinstance(found, str) else found)
            show(len(images), len(files))
    return images, bad


def read_one(file: ImageFile, preprocessing: Preprocessing) -> Pixels | str:
    """The crop, or why there is none."""
    try:
        return preprocess.load(file.read(), preprocessing)
    except DataError as error:
        return str(error)


def ended(file: ImageFile) -> str:
    """As `read_one`, of an image at which that ends its process."""
    return ENDED


def read_labelled(
    files: list[ImageFile], preprocessing: Preprocessing, source: Source, wanted: list[str]
) -> tuple[Pixels, list[ImageFile]]:
    """The images that can be read, and which files they are; the others are listed and left out."""
    images, bad = read_those(files, preprocessing)
    kept = [file for file, image in zip(files, images, strict=True) if image is not None]
    if bad and len(kept) < NEEDED:
        raise DataError(
            f"{source}: {len(bad)} of {len(files)} images of {wanted} cannot be read, a probe needs "
            f"{NEEDED}:\n{listed(bad)}"
        )
    if bad:
        console = Console(stderr=True)
        console.print(
            f"[yellow]{len(bad)} images left out:[/]\n{marked_lines(listed(bad))}", soft_wrap=True
        )
    return np.stack([image for image in images if image is not None]), kept
