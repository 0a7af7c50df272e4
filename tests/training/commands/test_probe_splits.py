"""`jepack probe` with groups and a control column."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import processes
from PIL import Image

from jepack.sources import ImageFile
from training.commands.probe import split_words, splits_of


def write_scanners(folder: Path) -> Path:
    """Labels that are chance, scanners that show as a grey level: 4 patients per scanner."""
    generator = np.random.default_rng(0)
    rows = ["path,label,patient,scanner"]
    folder.mkdir()
    for number in range(96):
        patient = number % 8
        scanner = patient % 2
        pixels = generator.integers(0, 100, (32, 32), dtype=np.uint8) + np.uint8(120 * scanner)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{'ab'[generator.integers(2)]},p{patient},s{scanner}")
    (folder / "list.csv").write_text("\n".join(rows))
    return folder / "list.csv"


def test_a_control_column_shows_what_the_features_tell(tmp_path: Path) -> None:
    manifest = write_scanners(tmp_path / "data")
    done = processes.run(
        "probe", "random:resnet10t", "--data", str(manifest), "--json",
        "--size", "32", "--group-by", "patient", "--control", "scanner", "--seeds", "3",
        "--test-fraction", "0.25", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["seeds"] == 3
    assert told["control"]["linear"] > 0.95
    assert told["linear"] < 0.8
    assert told["test_images"] == 24
    assert told["copies_across"] == 0


def test_pages_of_one_file_stay_on_one_side_of_a_probe() -> None:
    """They show one thing, so a probe that saw one page knows the label of the others."""
    pages = [
        ImageFile(Path(f"{n}.tif"), "ab"[n % 2], f"page={p}") for n in range(12) for p in range(6)
    ]
    for train, test in splits_of(pages, 0.25, seed=0, seeds=3, group_by=None):
        assert {pages[i].path for i in train}.isdisjoint({pages[i].path for i in test})
        assert len(train) + len(test) == len(pages)
    assert split_words(pages, None) == "drawn at random by file"
