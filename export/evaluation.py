"""The images an export is judged on: the bundle's golden images, then held-out ones of the domain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from jepack.bundle import Bundle
from jepack.decoding import preprocess
from jepack.errors import DataError, DecoderError, listed
from jepack.names import marked_lines
from jepack.sources import ImageFile, Record, Source, find_images, record_of

MINIMUM = 8  # images; below that a covariance says nothing
CALIBRATION = 128  # images an int8 export takes its ranges from


@dataclass(frozen=True)
class Evaluation:
    """uint8 images [N, H, W, C]: the golden ones first, then the held-out ones."""

    images: npt.NDArray[np.uint8]
    golden_count: int
    source: str  # for people: what the images are
    calibration: npt.NDArray[
        np.uint8
    ]  # other images of the domain, for ranges; golden for want of any
    files: tuple[ImageFile, ...] = ()  # where the held-out images came from, in their order
    known: bool = True  # False: whether the encoder was fitted on them is nobody's record

    @property
    def held_out_count(self) -> int:
        return len(self.images) - self.golden_count

    @property
    def judged(self) -> slice:
        """The images statistics are taken over: the held-out ones, or the golden ones for want of any."""
        return slice(self.golden_count if self.held_out_count else 0, None)

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "golden": self.golden_count,
            "held_out": self.held_out_count,
            "known_held_out": self.known,
        }


def find_evaluation(bundle: Bundle, data: Source | Path | None, max_images: int) -> Evaluation:
    """Golden images and up to `max_images` of `data`, else of those that the manifest names as held out.

    Images that the manifest shows the encoder was fitted on never judge it: they give the ranges of int8.
    Unreadable images are passed over. Raises DataError when too few are left.
    """
    golden = bundle.golden()["images"]
    record = record_of(bundle.manifest)
    recipe = (bundle.manifest.get("provenance") or {}).get("recipe") or {}
    cut = {"tile": recipe.get("tile", 0), "stride": recipe.get("tile_stride", 0)}
    asked = data is not None
    if data is None and record.known:
        data = record.data
    judging, others, known = divide(data, record, cut, asked=asked)
    pixels, files = load_some(judging, bundle, max_images, needed=asked)
    judged = {image.tobytes() for image in pixels}
    spare, _ = load_some(others, bundle, CALIBRATION)
    calibration = spare[[image.tobytes() not in judged for image in spare]] if len(spare) else spare
    if not len(calibration):
        calibration = golden
    if len(pixels) >= MINIMUM:
        source = f"{len(pixels)} images of {data}"
        images = np.concatenate([golden, pixels])
        return Evaluation(images, len(golden), source, calibration, files, known)
    if asked:
        those = "images that this encoder was not fitted on" if known else "images that can be read"
        raise DataError(
            f"{data}: {len(pixels)} {those}, the gate needs {MINIMUM}. Name a folder of others: --data DIR"
        )
    if len(golden) < MINIMUM:
        raise DataError(
            f"{bundle.folder}: {len(golden)} golden images and {len(pixels)} others, the gate needs "
            f"{MINIMUM} to judge on. Name a folder of images: --data DIR"
        )
    source = f"the {len(golden)} golden images only (no --data), too few to say much"
    return Evaluation(golden, len(golden), source, calibration, known=True)


def divide(
    data: Source | Path | None, record: Record, cut: dict[str, Any], *, asked: bool
) -> tuple[list[ImageFile], list[ImageFile], bool]:
    """(images to judge by, other images, is it recorded that the former were kept out?).

    Images of the recorded data that were not kept out are other images. Of a folder that the manifest
    knows nothing of four fifths judge, at the word of whoever named it.
    """
    if data is None:
        return [], [], True
    everything = find_images(data, parts=True, **cut)
    fitted = record.fitted_on(everything)
    held_out = [image for image, seen in zip(everything, fitted, strict=True) if not seen]
    if record.known and (any(fitted) or not asked):
        return held_out, [i for i, seen in zip(everything, fitted, strict=True) if seen], True
    order = np.random.default_rng(1).permutation(len(everything))
    aside = min(CALIBRATION, len(everything) // 5)
    shuffled = [everything[index] for index in order]
    return shuffled[aside:], shuffled[:aside], False


def load_some(
    images: list[ImageFile], bundle: Bundle, max_images: int, *, needed: bool = False
) -> tuple[npt.NDArray[np.uint8], tuple[ImageFile, ...]]:
    """Up to `max_images` of the files, drawn with a fixed seed, as one uint8 array, and which they are.

    Those that cannot be read are listed; DataError when none can and some are `needed` or a library is
    missing.
    """
    order = np.random.default_rng(0).permutation(len(images))
    preprocessing = bundle.preprocessing
    pixels: list[npt.NDArray[np.uint8]] = []
    kept: list[ImageFile] = []
    bad: list[tuple[str, str]] = []
    missing = False
    for index in order:
        if len(pixels) == max_images:
            break
        try:
            pixels.append(preprocess.load(images[index].read(), preprocessing))
        except DataError as error:
            bad.append((images[index].name, str(error).removeprefix("image: ")))
            missing = missing or isinstance(error, DecoderError)
            continue
        kept.append(images[index])
    if bad and not pixels and (needed or missing):
        kind = DecoderError if missing else DataError
        raise kind(f"none of {len(bad)} images can be read:\n{listed(bad)}")
    if bad:
        console = Console(stderr=True)
        console.print(
            f"[yellow]{len(bad)} images skipped:[/]\n{marked_lines(listed(bad))}", soft_wrap=True
        )
    side = preprocessing.size
    nothing = np.zeros((0, side, side, preprocessing.channels), np.uint8)
    return np.stack(pixels) if pixels else nothing, tuple(kept)
