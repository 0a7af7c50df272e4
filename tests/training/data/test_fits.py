"""`--fit crop|pad|squash`: what of an elongated image is kept, judged, and cut into views."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.decoding import FITS, Preprocessing, crop, load
from jepack.errors import ConfigError
from jepack.sources import Source, find_images
from training.data import Fetched, decode_file, open_cache, open_stream
from training.parallel import Ranks
from training.run import prepare, sameness
from training.run.starting import settle
from training.settings import TrainConfig, override, preset, recipe
from training.views import Cutter, Finisher, crop_boxes, draw, fitted
from training.watch.evaluation import crops

HEIGHT, WIDTH = 20, 120
PAPER = 40  # of 255: the mean colour these tests are given
SMALL = TrainConfig(
    size=24, local_size=16, global_views=2, local_views=2, images_per_step=8, channels=1,
    preset="none",
)  # fmt: skip
ALONE = Ranks(0, 1, torch.device("cpu"))


def look(fit: str, size: int = 24) -> Preprocessing:
    return Preprocessing(
        size=size, channels=1, mean=(PAPER / 255,), std=(0.2,), crop_mode=FITS[fit]
    )


@pytest.fixture
def strips(tmp_path: Path) -> Path:
    """Eight strips of six to one, of noise brighter than the paper; half of them stand."""
    (tmp_path / "strips").mkdir()
    for number in range(8):
        noise = np.random.default_rng(number).integers(120, 256, (HEIGHT, WIDTH), dtype=np.uint8)
        pixels = noise if number % 2 else noise.T
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / "strips" / f"{number}.png")
    return tmp_path / "strips"


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("opened", [open_cache, open_stream])
def test_evaluation_sees_what_serving_sees_to_the_bit(
    strips: Path, tmp_path: Path, fit: str, opened: Any
) -> None:
    root = {"root": tmp_path / "cache"} if opened is open_cache else {}
    images = opened(strips, side=150, channels=1, crop_mode=FITS[fit], **root)
    judged, kept = crops(images, np.arange(8), look(fit))
    served = [load(images.files[number].read(), look(fit)) for number in kept]
    np.testing.assert_array_equal(judged, served)
    np.testing.assert_array_equal(
        [images.original(number, kept, look(fit)) for number in range(8)], served
    )


@pytest.mark.parametrize(
    ("fit", "shape"), [("crop", (12, 72)), ("pad", (2, 12)), ("squash", (12, 12))]
)
def test_what_becomes_the_side_of_the_square_is_kept(
    strips: Path, tmp_path: Path, fit: str, shape: tuple[int, int]
) -> None:
    cache = open_cache(strips, side=12, channels=1, crop_mode=FITS[fit], root=tmp_path / "cache")
    assert [tuple(one) for one in cache.shapes[:2].tolist()] == [shape[::-1], shape]
    usual = open_cache(strips, side=12, channels=1, root=tmp_path / "cache")
    assert (usual.folder == cache.folder) == (fit == "crop")


def test_views_of_a_padded_image_lie_on_paper_and_hold_as_much_of_the_image_as_they_can(
    strips: Path, tmp_path: Path
) -> None:
    cache = open_cache(strips, side=150, channels=1, crop_mode="border", root=tmp_path / "cache")
    batch = Cutter(cache, np.arange(8), SMALL, preset("none"), preprocessing=look("pad")).cut(0)
    for views, boxes in (
        (batch.global_views, batch.global_boxes),
        (batch.local_views, batch.local_boxes),
    ):
        assert views is not None
        assert boxes is not None
        # A box shows all 20 px of a strip's width, or nothing else.
        due = np.minimum(1, HEIGHT / boxes.box[..., 2:]).min(axis=-1)
        shown = (views[..., 0] > 80).mean(axis=(2, 3))
        assert np.abs(shown - due).max() < 0.15
        paper = views[..., 0][(views[..., 0] < 80) & (views[..., 0] > 0)]
        assert paper.size == 0 or np.median(paper) == PAPER


def test_a_square_image_is_cut_alike_padded_squashed_or_not(
    digits_folder: Path, tmp_path: Path
) -> None:
    cut = []
    for fit in FITS:
        cache = open_cache(digits_folder, side=30, channels=1, crop_mode=FITS[fit], root=tmp_path)
        cutter = Cutter(cache, np.arange(60), SMALL, preset("natural"), preprocessing=look(fit))
        cut.append(cutter.cut(1).global_views)
    assert np.array_equal(cut[0], cut[1])
    assert np.array_equal(cut[0], cut[2])


def test_boxes_of_a_squashed_image_have_its_shape() -> None:
    shapes = 10 * np.array([[HEIGHT, WIDTH], [WIDTH, HEIGHT], [WIDTH, WIDTH]])
    look = preset("none", {"aspect": [1.0, 1.0]})
    boxes = crop_boxes(shapes, draw(4, 3, seed=0, step=0), 400, (0.3, 1.0), look, squash=True)
    lengths = boxes.box[..., 2:] / shapes
    assert np.abs(lengths[..., 0] - lengths[..., 1]).max() < 0.06
    area = lengths.prod(axis=-1)
    assert area.min() > 0.25
    assert area.max() <= 1


def test_masks_boxes_and_background_move_with_a_padded_image() -> None:
    strip = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
    strip[:, -HEIGHT:] = 200  # what matters is at its right end
    mask = np.zeros((1, 32, 32), np.uint8)
    mask[:, :, -5:] = 255
    shapes, region = np.array([[HEIGHT, WIDTH]]), np.array([[0, 100, 20, 20]])
    fetched = Fetched([strip], shapes, region, mask, np.arange(1))
    laid, contents = fitted(fetched, mask, look("pad"))
    assert laid.images[0].shape == (WIDTH, WIDTH, 1)
    assert laid.regions is not None
    assert laid.regions.tolist() == [[50, 100, 20, 20]]
    assert np.array_equal(laid.images[0][50:70], strip)
    assert laid.masks is not None
    assert contents is not None
    for grid in (laid.masks[0], contents[0]):
        rows, columns = np.nonzero(grid)
        assert (rows.min(), rows.max()) == (13, 17)  # of 32: the strip's fifth of the height
        assert columns.min() == 27
    assert fitted(fetched, mask, look("squash")) == (fetched, mask)


@pytest.mark.parametrize("fit", FITS)
def test_both_engines_cut_the_same_views(strips: Path, tmp_path: Path, fit: str) -> None:
    cache = open_cache(strips, side=40, channels=1, crop_mode=FITS[fit], root=tmp_path / "cache")
    finisher = Finisher(SMALL, preset("none"), (0.5,), (0.25,), torch.device("cpu"))
    both = [
        finisher.finish(
            Cutter(
                cache,
                np.arange(8),
                SMALL,
                preset("none"),
                preprocessing=look(fit),
                on_device=device,
            ).cut(2)
        )
        for device in (False, True)
    ]
    difference = (both[0].global_views - both[1].global_views).abs().mean()
    assert float(difference) < 4 / 255 / 0.25  # a few grey levels, on noise


@pytest.mark.parametrize("fit", ["pad", "squash", None])
def test_a_run_is_prepared_served_and_compared_by_its_fit(
    strips: Path, tmp_path: Path, fit: str | None
) -> None:
    config = replace(
        recipe("quickstart"), encoder="test_vit", size=32, eval_size=32, global_views=2,
        images_per_step=2, validation_fraction=0.5, channels=1, precision="fp32", fit=fit,
    )  # fmt: skip
    for number in range(24):
        Image.new("L", (WIDTH, HEIGHT), 10 * number).save(strips / f"more-{number}.png")
    prepared = prepare(config, Source.of(strips), ALONE, cache_root=tmp_path, encodes=False)
    assert prepared.config.fit == (fit or "crop")
    assert prepared.preprocessing.crop_mode == FITS[fit or "crop"]
    sides = {"pad": (7, 40), "squash": (20, 40), None: (20, 120)}[fit]  # 40 px kept, 1.25 * 32
    assert sorted(prepared.images[0].shape[:2]) == list(sides)
    before = {name: value for name, value in config.to_json().items() if name != "fit"}
    changed = sameness.settings_changed(before, prepared.config.to_json())
    assert changed == ({} if fit is None else {"fit": ("crop", fit)})


def test_a_run_that_starts_from_a_bundle_fits_as_it_does(
    small_bundle: Bundle, tmp_path: Path
) -> None:
    folder = tmp_path / "padded"
    shutil.copytree(small_bundle.folder, folder)
    padded = {**small_bundle.preprocessing.to_json(), "crop_mode": "border"}
    with bundles.editing(bundles.load(folder), {"preprocessing": padded}):
        pass
    config = replace(recipe("quickstart"), init=str(folder), size=64)
    assert settle(config, ALONE).fit == "pad"
    assert settle(replace(config, fit="crop"), ALONE).fit == "crop"
    assert settle(replace(config, init=str(small_bundle.folder)), ALONE).fit == "crop"


def test_another_word_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="fit must be crop or pad or squash, found 'stretch'"):
        override(SMALL, ["fit=stretch"])
    assert override(SMALL, ["fit=pad"]).crop_mode == "border"


def test_a_file_is_shrunk_on_its_way_only_as_its_fit_asks(strips: Path) -> None:
    (file, *_) = find_images(strips)
    kept = decode_file(file, 60, 1, None, "border").pixels
    assert kept.shape == (60, 10, 1)
    whole = load(file.read(), look("pad", 60))
    np.testing.assert_array_equal(crop(kept, look("pad", 60)), whole)
