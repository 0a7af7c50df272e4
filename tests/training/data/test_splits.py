"""Splits: groups stay whole, copies across the split are found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepack.errors import DataError
from jepack.sources import ImageFile
from training.data import column, copies_across, grouped_split, training_split


def files(groups: list[str], **columns: list[str]) -> list[ImageFile]:
    return [
        ImageFile(
            Path(f"{n}.png"), columns={"patient": group, **{k: v[n] for k, v in columns.items()}}
        )
        for n, group in enumerate(groups)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_no_group_lies_on_both_sides(seed: int) -> None:
    groups = [f"p{n % 13}" for n in range(200)]
    train, test = training_split(files(groups), 0.2, seed, "patient")
    assert not {groups[i] for i in train} & {groups[i] for i in test}
    assert sorted([*train, *test]) == list(range(200))
    assert 0.15 < len(test) / 200 < 0.25


def test_uneven_groups_come_as_near_as_they_can() -> None:
    groups = ["big"] * 80 + ["a"] * 12 + ["b"] * 8
    _, test = grouped_split(groups, 0.2, seed=0)
    assert len(test) == 20


@pytest.mark.parametrize("part", ["page", "frame", "image", "planes"])
@pytest.mark.parametrize("seed", range(5))
def test_pages_of_a_file_a_manifests_groups_and_copies_stay_on_one_side(
    part: str, seed: int
) -> None:
    images = [
        ImageFile(Path(f"{n // 4}.tif"), part=f"{part}={n % 4}", columns={"patient": f"p{n // 8}"})
        for n in range(160)
    ]
    contents = [f"{n}" for n in range(160)]
    contents[3] = contents[90] = contents[155]  # pages of three files, copied

    def sides(values: list[str], split: tuple[Any, Any]) -> set[str]:
        return {values[i] for i in split[0]} & {values[i] for i in split[1]}

    paths = [str(image.path) for image in images]
    patients = [image.columns["patient"] for image in images]
    plain = training_split(images, 0.25, seed, None, contents)
    assert not sides(paths, plain) | sides(contents, plain)
    assert sorted([*plain[0], *plain[1]]) == list(range(160))
    grouped = training_split(images, 0.25, seed, "patient", contents)
    assert not sides(patients, grouped) | sides(paths, grouped) | sides(contents, grouped)


def test_a_blank_page_in_every_file_does_not_make_them_one_group() -> None:
    images = [ImageFile(Path(f"{n // 4}.tif"), part=f"page={n % 4}") for n in range(40)]
    contents = ["blank" if n % 4 == 0 else f"{n}" for n in range(40)]
    train, held = training_split(images, 0.25, 0, None, contents)
    assert not {images[i].path for i in train} & {images[i].path for i in held}
    assert not {contents[i] for i in train} & {contents[i] for i in held}
    assert len(held) >= 6


def test_the_manifests_own_split_is_kept_and_checked_for_leaks() -> None:
    told = ["train"] * 3 + ["test"] * 2
    train, test = training_split(files(["a", "a", "b", "c", "c"], split=told), 0.5, 0)
    assert (train.tolist(), test.tolist()) == ([0, 1, 2], [3, 4])
    with pytest.raises(DataError, match="1 values of 'patient' lie on both sides of the split: b"):
        training_split(files(["a", "a", "b", "b", "c"], split=told), 0.5, 0, "patient")


def test_a_missing_column_names_those_there_are() -> None:
    with pytest.raises(DataError, match="have no 'slide'; the manifest's columns are patient"):
        column(files(["a", "b"]), "slide")
    with pytest.raises(DataError, match="one group"):
        training_split(files(["a", "a"]), 0.5, 0, "patient")


def test_copies_across_a_split_are_found_and_strangers_are_not() -> None:
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (32, 32, 1), dtype=np.uint8) for _ in range(40)]
    brighter = np.clip(images[3].astype(int) * 0.8 + 20, 0, 255).astype(np.uint8)
    images += [brighter, np.zeros((32, 32, 1), np.uint8), np.zeros((32, 32, 1), np.uint8)]
    found = copies_across(images, np.arange(41), np.array([41, 42])[:0])
    assert found.pairs == ()
    found = copies_across(images, np.array([*range(40), 41]), np.array([40, 42]))
    assert found.pairs == ((40, 3),)
    assert found.share == 0.5
