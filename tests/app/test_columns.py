"""A manifest's columns in the index: kept with their kind, and searched by."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from pixel_embedder import PixelEmbedder
from rich.console import Console

from app.building import Plan, build
from app.columns import Column, columns_of
from app.engine import Engine
from app.lance import LanceStore, open_index
from app.store import Condition, IndexInfo, write_info
from jepack.errors import ArtifactError, ConfigError
from jepack.sources import Source, find_images


@pytest.fixture(scope="module")
def described_index(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Path:
    """Twenty images of a manifest: plant north or south, 0 to 19 volts, one day each from 2024-01-01."""
    root = tmp_path_factory.mktemp("described")
    rows = []
    for number, image in enumerate(find_images(digits_folder)[:20]):
        shutil.copy(image.path, root / f"{number}.png")
        plant = "" if number == 0 else ("north", "it's south")[number % 2]
        day = f"2024-01-{number + 1:02d}T12:00:00"
        rows.append([f"{number}.png", image.label, plant, number / 2, day, f"0{number:02d}"])
    with (root / "list.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", "label", "plant", "volts", "taken", "code"], *rows])
    named = Source.of(root / "list.csv")
    plan = Plan(named=named, images=find_images(root / "list.csv"))
    build(root / "index", plan, Engine("pixels", PixelEmbedder), Console(quiet=True))
    return root / "index"


def found(store: LanceStore, *only: Condition) -> set[int]:
    row = store.get(["3.png"])[0]
    assert row.vector is not None
    [hits] = store.search(row.vector[None], 50, fingerprint=store.info.fingerprint, only=only)
    return {int(hit.row.id.removesuffix(".png")) for hit in hits}


def test_columns_are_kept_with_their_kind_and_value(described_index: Path) -> None:
    store = open_index(described_index)
    kinds = {one.name: one.kind for one in store.info.columns}
    assert kinds == {"plant": "category", "volts": "number", "taken": "date", "code": "category"}
    zero, three = store.get(["0.png", "3.png"])
    assert three.columns == {
        "plant": "it's south",
        "volts": 1.5,
        "taken": "2024-01-04T12:00:00+00:00",
        "code": "003",
    }
    assert zero.columns["plant"] is None
    assert store.values("plant") == [("it's south", 10), ("north", 9)]


@pytest.mark.parametrize(
    ("only", "wanted"),
    [
        ([Condition("plant", "is", "it's south")], set(range(1, 20, 2))),
        ([Condition("plant", "not", "it's south")], set(range(2, 20, 2))),
        ([Condition("volts", "from", "2"), Condition("volts", "to", "3")], {4, 5, 6}),
        ([Condition("taken", "to", "2024-01-02")], {0, 1}),
        ([Condition("taken", "from", "2024-01-19"), Condition("plant", "is", "north")], {18}),
        ([Condition("label", "is", "nothing")], set()),
    ],
)
def test_a_search_keeps_to_its_conditions(
    described_index: Path, only: list[Condition], wanted: set[int]
) -> None:
    assert found(open_index(described_index), *only) == wanted


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (Condition("size", "is", "1"), "no column 'size'. It has: label, code, plant"),
        (Condition("volts", "from", "many"), "'many' is no number"),
        (Condition("taken", "to", "x' OR 1=1"), "is no date"),
        (Condition("plant", "=", "north"), "'=' is no condition"),
    ],
)
def test_a_condition_that_means_nothing_is_refused(
    described_index: Path, one: Condition, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        found(open_index(described_index), one)


def test_a_column_is_of_a_kind_when_all_that_is_said_is() -> None:
    rows = [
        {"a": "1", "b": "2024-01-01", "c": "2024-02-30", "d": "7", "e": ""},
        {"a": "-2e3", "b": "nan", "c": "2024-01-01", "d": "x"},
    ]
    kinds = {one.name: one.kind for one in columns_of(rows)}
    assert kinds == {"a": "number", "b": "date", "c": "category", "d": "category"}


def test_columns_of_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    info = IndexInfo(
        name="x", output="embedding", dimension=2, fingerprint="0", data="d",
        columns=(Column("a", "colour"),),
    )  # fmt: skip
    write_info(tmp_path, info)
    with pytest.raises(ArtifactError, match="unknown kinds"):
        open_index(tmp_path)
