"""The cache: decodes once, counts what it cannot read, forgets nothing that changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jepack.decoding import decode
from jepack.errors import DataError
from training.data import guess_channels, open_cache, split
from training.data.images import images_of_step


def save(path: Path, size: tuple[int, int] = (30, 20), mode: str = "L", seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_small_images_are_kept_to_the_byte(tmp_path: Path) -> None:
    path = save(tmp_path / "data" / "cat" / "a.png")
    cache = open_cache(tmp_path / "data", side=64, channels=1, root=tmp_path / "cache")
    assert np.array_equal(cache[0], decode(path, 1))
    assert [file.label for file in cache.files] == ["cat"]


def test_large_images_shrink_to_the_side_and_keep_their_shape(tmp_path: Path) -> None:
    save(tmp_path / "data" / "wide.png", (300, 100))
    cache = open_cache(tmp_path / "data", side=50, channels=1, root=tmp_path / "cache")
    assert cache[0].shape == (50, 150, 1)


def test_a_second_opening_decodes_nothing(tmp_path: Path) -> None:
    save(tmp_path / "data" / "a.png")
    calls: list[int] = []
    for _ in range(2):
        open_cache(
            tmp_path / "data", side=50, channels=1, root=tmp_path / "cache",
            on_progress=lambda done, total: calls.append(done),
        )  # fmt: skip
    assert calls == [1]


def test_a_changed_image_is_decoded_again(tmp_path: Path) -> None:
    path = save(tmp_path / "data" / "a.png")
    first = open_cache(tmp_path / "data", side=50, channels=1, root=tmp_path / "cache")
    save(path, seed=1)
    second = open_cache(tmp_path / "data", side=50, channels=1, root=tmp_path / "cache")
    assert first.digest != second.digest
    assert not np.array_equal(first[0], second[0])


def test_bad_images_are_counted_with_a_reason_up_to_the_limit(tmp_path: Path) -> None:
    for number in range(9):
        save(tmp_path / "data" / f"{number}.png", seed=number)
    (tmp_path / "data" / "broken.png").write_bytes(b"not an image")
    cache = open_cache(tmp_path / "data", side=50, channels=1, root=tmp_path / "c", max_bad=0.1)
    assert len(cache) == 9
    assert "not an image of a known format" in cache.bad[0][1]
    with pytest.raises(DataError, match="1 of 10 images cannot be read, the limit is 1.0%"):
        open_cache(tmp_path / "data", side=51, channels=1, root=tmp_path / "c", max_bad=0.01)
    assert [path.name[:7] for path in (tmp_path / "c").glob("[!.]*")] == ["images-"]
    assert not list((tmp_path / "c").glob(".*.partial"))


def test_an_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no images found; need files ending in \.png"):
        open_cache(tmp_path, side=50, channels=1, root=tmp_path / "cache")


def test_grey_images_need_one_channel_and_colour_needs_three(tmp_path: Path) -> None:
    from jepack.sources import find_images

    save(tmp_path / "grey" / "a.png")
    save(tmp_path / "colour" / "a.png", mode="RGB")
    assert guess_channels(find_images(tmp_path / "grey")) == 1
    assert guess_channels(find_images(tmp_path / "colour")) == 3


def test_every_epoch_shows_every_image_once() -> None:
    seen = np.concatenate([images_of_step(10, 4, step, seed=0) for step in range(5)])
    assert sorted(seen[:10]) == list(range(10))
    assert sorted(seen[10:]) == list(range(10))
    assert not np.array_equal(seen[:10], seen[10:])


def test_training_and_validation_share_no_image() -> None:
    train, held_out = split(100, 0.2, seed=0)
    assert len(held_out) == 20
    assert not set(train) & set(held_out)
    assert len(set(train) | set(held_out)) == 100
