"""An index of small pictures with known faults, each drawn from a random pattern of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pixel_embedder import index_digits

EACH = 60  # pictures of a label
SIDE = 48  # px


def pattern(rng: np.random.Generator, upright: bool) -> np.ndarray:
    """A step, upright or lying, under blotches that make each picture one of its own."""
    step = np.where(np.arange(SIDE) < SIDE // 2, -40.0, 40.0)
    coarse = Image.fromarray(rng.normal(size=(7, 7)).astype(np.float32)).resize((SIDE, SIDE))
    base = np.tile(step, (SIDE, 1)) if upright else np.tile(step[:, None], (1, SIDE))
    return np.clip(128 + base + 28 * np.asarray(coarse), 10, 245).astype(np.uint8)


@pytest.fixture(scope="session")
def faulty_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("faulty") / "stripes", np.random.default_rng(1)
    for label in ("lying", "upright"):
        (folder / label).mkdir(parents=True)
        for number in range(EACH):
            made = pattern(rng, label == "upright")
            Image.fromarray(made).save(folder / label / f"{number:02d}.png")
    shutil.copyfile(folder / "upright" / "07.png", folder / "upright" / "copy.png")
    with Image.open(folder / "lying" / "11.png") as one:
        one.resize((96, 96)).save(folder / "lying" / "larger.jpg", quality=70)
    for name in ("50", "51"):  # of the other kind than their folder says
        (folder / "upright" / f"{name}.png").rename(folder / "lying" / f"wrong-{name}.png")
    Image.fromarray(np.full((SIDE, SIDE), 90, np.uint8)).save(folder / "lying" / "even.png")
    Image.fromarray(pattern(rng, True)[:8]).save(folder / "upright" / "strip.png")
    (folder / "lying" / "torn.png").write_bytes((folder / "lying" / "01.png").read_bytes()[:90])
    return folder


@pytest.fixture(scope="session")
def faulty_index(faulty_folder: Path) -> Path:
    """Shared: copy the folder before changing it."""
    return index_digits(faulty_folder, faulty_folder.parent / "index", name="Stripes")
