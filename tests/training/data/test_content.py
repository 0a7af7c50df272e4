"""Crops go where something is: inside a mask, and not to the background."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jepack.errors import ConfigError, DataError
from training.data import centres, open_cache, shares
from training.data.content import content_of
from training.settings import TrainConfig, preset
from training.views import Cutter, crop_boxes, draw

SMALL = TrainConfig(
    size=24, local_size=16, global_views=2, local_views=6, images_per_step=8, channels=1
)


def masked_data(folder: Path, mask: Any, count: int = 8) -> Path:
    """Noise whose mask marks a part of it; the last image has no mask."""
    generator = np.random.default_rng(0)
    rows = ["path,mask"]
    for number in range(count):
        pixels = generator.integers(1, 256, (80, 120), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{'' if number == count - 1 else 'mask.bmp'}")
    Image.fromarray(mask).save(folder / "mask.bmp")
    (folder / "list.csv").write_text("\n".join(rows))
    return folder / "list.csv"


def ring() -> Any:
    """A mask with a hole in its middle: a box could not say it."""
    mask = np.zeros((40, 60), np.uint8)
    mask[5:35, 5:55] = 7
    mask[12:28, 12:48] = 0
    return mask


def test_crops_have_their_centre_in_the_mask(tmp_path: Path) -> None:
    cache = open_cache(masked_data(tmp_path, ring()), side=40, channels=1, root=tmp_path / "c")
    assert cache.masks is not None
    numbers = draw(300, len(cache), seed=0, step=0)
    look = preset("none")
    found = crop_boxes(cache.shapes, numbers, 16, (0.01, 0.02), look, None, cache.masks).box
    centre = (found[..., :2] + found[..., 2:] / 2)[:, :-1].reshape(-1, 2)
    # Cells are 2 px wide, and a crop is moved by at most as much as it would leave the image.
    near = np.array(
        [ring()[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3].any() for y, x in centre]
    )
    assert near.all()
    assert len(np.unique(centre, axis=0)) > 300
    free = (found[..., :2] + found[..., 2:] / 2)[:, -1]
    inside = np.array([ring()[int(y), int(x)] for y, x in free]) > 0
    assert 0.2 < inside.mean() < 0.6  # without a mask, anywhere


def test_places_are_drawn_as_often_as_the_mask_counts() -> None:
    grid = np.zeros((1, 32, 32), np.uint8)
    grid[0, 3, 4], grid[0, 20, 30] = 50, 200
    place = np.random.default_rng(0).random((4000, 1, 2))
    y, x = (centres(grid, place)[:, 0] * 32).T
    first = (y.astype(int) == 3) & (x.astype(int) == 4)
    assert ((y.astype(int) == 20) & (x.astype(int) == 30) | first).all()
    assert first.mean() == pytest.approx(0.2, abs=0.03)
    assert (y[first] - 3).std() == pytest.approx(0.29, abs=0.03)  # evenly inside a cell


def test_the_share_of_a_box_is_the_mean_of_the_mask_under_it() -> None:
    generator = np.random.default_rng(0)
    grids = generator.integers(0, 2, (3, 32, 32)).astype(np.uint8) * np.uint8(255)
    shapes = np.array([[64, 96], [96, 32], [64, 64]])
    starts = np.array([[[3, 7], [50, 5], [10, 9]]])
    lengths = np.array([[[20, 31], [37, 20], [33, 40]]])
    found = shares(grids, starts, lengths, shapes)[0]
    for number, (height, width) in enumerate(shapes.tolist()):
        fine = np.kron(grids[number] / 255, np.ones((height * 30 // 32, width * 30 // 32)))
        (top, left), (tall, wide) = starts[0, number] * 30, lengths[0, number] * 30
        assert found[number] == pytest.approx(
            fine[top : top + tall, left : left + wide].mean(), abs=1e-6
        )


@pytest.mark.parametrize(("background", "empty"), [("dark", 0), ("bright", 245), ("flat", 130)])
def test_empty_crops_are_drawn_again(tmp_path: Path, background: str, empty: int) -> None:
    """Three quarters of every image are background; a fifth of a crop must not be."""
    generator = np.random.default_rng(0)
    for number in range(8):
        pixels = np.full((80, 120), empty, np.uint8)
        pixels[:40, 60:] = generator.integers(60, 200, (40, 60))
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    cache = open_cache(tmp_path, side=80, channels=1, root=tmp_path / "c")

    def full(look: Any) -> Any:
        batches = [Cutter(cache, np.arange(8), SMALL, look).cut(step) for step in range(12)]
        boxes = np.concatenate([batch.local_boxes.box for batch in batches]).reshape(-1, 4)
        return np.array([
            content_of(cache[0][top : top + tall, left : left + wide], background).mean() / 255
            for top, left, tall, wide in boxes
        ])  # fmt: skip

    plain = preset("none", {"local_scale": [0.05, 0.1]})
    asked = preset(
        "none", {"local_scale": [0.05, 0.1], "min_content": 0.2, "background": background}
    )
    before, after = (full(look) < 0.15 for look in (plain, asked))
    assert before.mean() > 0.4
    assert after.mean() < before.mean() ** 4  # five draws instead of one
    assert full(plain).shape == full(asked).shape


def test_crops_that_show_enough_are_not_touched(tmp_path: Path) -> None:
    cache = open_cache(
        masked_data(tmp_path, np.full((40, 60), 1, np.uint8)),
        side=40,
        channels=1,
        root=tmp_path / "c",
    )
    looks = [preset("natural", {"min_content": share}) for share in (0.0, 0.5)]
    one, other = (Cutter(cache, np.arange(8), SMALL, look).cut(3) for look in looks)
    assert np.array_equal(one.global_views, other.global_views)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (
            np.ones((60, 40), np.uint8),
            "mask.bmp is 40 x 60 px, the image 120 x 80: they need the same",
        ),
        (None, "its mask cannot be used: .*mask.bmp"),
    ],
)
def test_a_mask_that_does_not_fit_makes_a_bad_image(tmp_path: Path, mask: Any, words: str) -> None:
    data = masked_data(tmp_path, ring() if mask is None else mask, count=2)
    if mask is None:
        (tmp_path / "mask.bmp").unlink()
    cache = open_cache(data, side=40, channels=1, root=tmp_path / "c", max_bad=0.5)
    assert len(cache) == 1
    with pytest.raises(DataError, match=words):
        open_cache(data, side=41, channels=1, root=tmp_path / "c", max_bad=0)


def test_a_changed_mask_builds_the_cache_again(tmp_path: Path) -> None:
    data = masked_data(tmp_path, ring())
    first = open_cache(data, side=40, channels=1, root=tmp_path / "c")
    Image.fromarray(ring().T[:40, ::-1]).resize((60, 40)).save(tmp_path / "mask.bmp")
    second = open_cache(data, side=40, channels=1, root=tmp_path / "c")
    assert first.masks is not None
    assert second.masks is not None
    assert not np.array_equal(first.masks[0], second.masks[0])


def test_an_unknown_background_is_refused() -> None:
    with pytest.raises(ConfigError, match="one of dark, bright, flat, found 'grey'"):
        preset("histology", {"background": "grey"})
