"""The images an export is judged on: the bundle's golden images, then held-out ones of the domain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from jepack import preprocess
from jepack.bundle import Bundle
from jepack.errors import DataError, listed
from jepack.images import ImageFile, base_of, find_images
from jepack.names import marked_lines, stored

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
        }


def find_evaluation(bundle: Bundle, data: Path | None, max_images: int) -> Evaluation:
    """Golden images and up to `max_images` of `data`, else of the folder the manifest names.

    The manifest's provenance["data"] is a folder, or {"folder": ..., "source": a file of it that lists or
    holds the images, "held_out": [names]}; the names are the images kept out of training. Unreadable
    images are passed over.
    """
    golden, asked = bundle.golden()["images"], data is not None
    provenance = bundle.manifest.get("provenance", {})
    recorded = provenance.get("data")
    if isinstance(recorded, str):
        recorded = {"folder": recorded}
    recorded = recorded if isinstance(recorded, dict) else {}
    named: set[str] = set()
    if data is None and recorded.get("folder") and Path(recorded["folder"]).exists():
        data = Path(recorded["folder"]) / recorded.get("source", "")
        named = set(map(stored, recorded.get("held_out") or []))
    recipe = provenance.get("recipe") or {}
    cut = {"tile": recipe.get("tile", 0), "stride": recipe.get("tile_stride", 0)}
    judging, others = divide(data, named, cut)
    pixels, files = load_some(judging, bundle, max_images, needed=asked)
    calibration, _ = load_some(others, bundle, CALIBRATION)
    if not len(calibration):
        calibration = golden
    if len(pixels) >= MINIMUM:
        source = f"{len(pixels)} images of {data}"
        images = np.concatenate([golden, pixels])
        return Evaluation(images, len(golden), source, calibration, files)
    if len(golden) < MINIMUM:
        raise DataError(
            f"{bundle.folder}: {len(golden)} golden images and {len(pixels)} others, the gate needs "
            f"{MINIMUM} to judge on. Name a folder of images: --data DIR"
        )
    source = f"the {len(golden)} golden images only (no --data)"
    return Evaluation(golden, len(golden), source, calibration)


def divide(
    data: Path | None, named: set[str], cut: dict[str, Any]
) -> tuple[list[ImageFile], list[ImageFile]]:
    """(images to judge by, other images): the named ones judge, else four fifths do at most."""
    if data is None:
        return [], []
    everything, base = find_images(data, parts=True, **cut), base_of(data)
    held_out = [image for image in everything if image.name_below(base) in named] if named else []
    if held_out:
        chosen = set(held_out)
        return held_out, [image for image in everything if image not in chosen]
    order = np.random.default_rng(1).permutation(len(everything))
    aside = min(CALIBRATION, len(everything) // 5)
    shuffled = [everything[index] for index in order]
    return shuffled[aside:], shuffled[:aside]


def load_some(
    images: list[ImageFile], bundle: Bundle, max_images: int, *, needed: bool = False
) -> tuple[npt.NDArray[np.uint8], tuple[ImageFile, ...]]:
    """Up to `max_images` of the files, drawn with a fixed seed, as one uint8 array, and which they are.

    Those that cannot be read are listed; DataError when none can and some are `needed`.
    """
    order = np.random.default_rng(0).permutation(len(images))
    preprocessing = bundle.preprocessing
    found: list[npt.NDArray[np.uint8]] = []
    kept: list[ImageFile] = []
    bad: list[tuple[str, str]] = []
    for index in order:
        if len(found) == max_images:
            break
        try:
            found.append(preprocess.load(images[index].read(), preprocessing))
        except DataError as error:
            bad.append((images[index].name, str(error).removeprefix("image: ")))
            continue
        kept.append(images[index])
    if bad and not found and needed:
        raise DataError(f"none of {len(bad)} images can be read:\n{listed(bad)}")
    if bad:
        console = Console(stderr=True)
        console.print(
            f"[yellow]{len(bad)} images skipped:[/]\n{marked_lines(listed(bad))}", soft_wrap=True
        )
    side = preprocessing.size
    nothing = np.zeros((0, side, side, preprocessing.channels), np.uint8)
    return np.stack(found) if found else nothing, tuple(kept)
