"""`jepack export` leaves a null of the held-out images in the bundle, once there are enough of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from small_bundle import write_digits

from export.run import export_bundle
from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.measures import FAULTS, fit_null


def test_export_writes_a_null_and_keeps_one_that_rests_on_more_images(
    small_bundle: Bundle, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(small_bundle.folder, tmp_path / "bundle"))
    digits = write_digits(tmp_path / "digits", 100)

    def export() -> Bundle:
        bundle = bundles.load(folder)
        return export_bundle(bundle, formats=["torchscript"], data=digits, timing=False).bundle

    made = export().null()
    assert made is not None
    assert 64 <= made.held_out <= 100  # of a folder that nobody knows, some give int8 its ranges
    assert made.known is not None
    assert 1 <= len(made.known) <= len(FAULTS)
    assert "null.safetensors" in bundles.load(folder).manifest["files"]
    assert "held-out images. It knows" in (folder / "README.md").read_text()
    more = fit_null(np.random.default_rng(0).standard_normal((200, 64)), runs=2)
    with bundles.editing(bundles.load(folder)) as stage:
        (stage / bundles.NULL).unlink()
        bundles.write_null(stage, more)
    kept = export().null()
    assert kept is not None
    assert kept.held_out == 200


def test_export_with_few_images_leaves_none(exported_bundle: Bundle) -> None:
    assert exported_bundle.null() is None
