"""What jepack wrote into a folder of images is none of its images."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pixel_embedder import PixelEmbedder
from test_updating import indexed

from app.engines import open_index
from jepack.bundle import Bundle
from jepack.sources import find_images
from training.settings import TrainConfig


def pictures(folder: Path, count: int = 4) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        shade = np.full((16, 16), 40 * number + 20, np.uint8)
        Image.fromarray(shade).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("place", ["idx", "x.db#q"])
def test_an_index_inside_its_data_is_updated(place: str, tmp_path: Path) -> None:
    data = pictures(tmp_path / "data")
    where = f"{data}/{place}"
    for update in (False, True, True):
        indexed(data, where, PixelEmbedder(), update=update)
        assert open_index(where).count() == 4
    notes: list[str] = []
    assert len(find_images(data, parts=True, notes=notes)) == 4
    assert any("folders that jepack wrote" in note for note in notes)


def test_bundles_and_runs_are_passed_over_and_folders_of_others_are_not(
    tmp_path: Path, small_bundle: Bundle
) -> None:
    data = pictures(tmp_path / "data")
    pictures(shutil.copytree(small_bundle.folder, data / "bundle") / "more")
    run = pictures(data / "run")
    (run / "checkpoints").mkdir()
    (run / "config.json").write_text(json.dumps(asdict(TrainConfig())))
    assert len(find_images(data)) == 4
    for number, text in enumerate(('{"images": []}', '["fingerprint", "metric"]', "no JSON", "")):
        other = pictures(data / f"of-others-{number}", count=1)
        for name in ("index.json", "milvus.json", "job.json", "manifest.json", "config.json"):
            (other / name).write_text(text)
        (other / "model.safetensors").touch()
        (other / "checkpoints").mkdir()
    pictures(data / "cats.db", count=1)
    assert len(find_images(data)) == 4 + 4 + 1
    assert len(find_images(run)) == 4  # named itself, it is what was asked for
