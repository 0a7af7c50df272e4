"""What the folders and manifests of a data set say: classes, splits, links, names as others write them."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jepack.errors import ConfigError, DataError
from jepack.sources import Source, each_image, find_images, passed_over
from training.commands.probe import split_words, splits_of
from training.data import training_split


def pictures(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), len(name), np.uint8)).save(path)
    return folder


def placed(data: Any, **options: Any) -> Counter[tuple[str | None, str | None]]:
    """Images by (class, split)."""
    found = find_images(data, **options)
    return Counter((file.label, file.columns.get("split")) for file in found)


def test_train_val_and_test_folders_are_the_split_and_the_level_below_the_classes(
    tmp_path: Path,
) -> None:
    for part in ("Train", "valid", "TESTING"):
        pictures(
            tmp_path, *(f"{part}/{label}/{n}.png" for label in ("cat", "dog") for n in range(2))
        )
    notes: list[str] = []
    files = find_images(tmp_path, notes=notes)
    assert Counter((f.label, f.columns["split"]) for f in files) == {
        (label, part): 2 for label in ("cat", "dog") for part in ("train", "val", "test")
    }
    [note] = notes
    assert (
        "are taken as the split (4 train, 4 val, 4 test images); the classes are cat, dog" in note
    )
    train, held = training_split(files, 0.5, 0)
    assert {files[i].columns["split"] for i in train} == {"train"}
    assert {files[i].columns["split"] for i in held} == {"val", "test"}
    [(fitted, tested)] = splits_of(files, 0.5, 0, 1, None)
    assert {files[i].columns["split"] for i in fitted} == {"train"}
    assert {files[i].columns["split"] for i in tested} == {"test"}
    assert split_words(files, None) == "the data's own test part"


def test_a_probe_is_tested_on_val_where_there_is_no_test(tmp_path: Path) -> None:
    files = find_images(pictures(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/2.png"))
    [(fitted, tested)] = splits_of(files, 0.5, 0, 1, None)
    assert (fitted.tolist(), tested.tolist()) == ([0, 1], [2])


def test_a_split_inside_each_class_is_one_too(tmp_path: Path) -> None:
    pictures(tmp_path, "cat/train/1.png", "cat/test/2.png", "dog/train/1.png", "dog/test/2.png")
    assert placed(tmp_path) == {
        (label, part): 1 for label in ("cat", "dog") for part in ("train", "test")
    }


def test_one_folder_around_the_split_is_no_class(tmp_path: Path) -> None:
    pictures(tmp_path, "images/train/cat/1.png", "images/val/dog/2.png")
    assert placed(tmp_path) == {("cat", "train"): 1, ("dog", "val"): 1}


def test_classes_that_are_called_train_are_classes_where_one_says_so(tmp_path: Path) -> None:
    pictures(tmp_path / "a", "train/1.png", "val/2.png")
    assert placed(tmp_path / "a") == {(None, "train"): 1, (None, "val"): 1}
    assert placed(f"{tmp_path / 'a'}#classes") == {("train", None): 1, ("val", None): 1}
    pictures(tmp_path / "vehicles", "train/1.png", "car/2.png", "bus/3.png")
    assert placed(tmp_path / "vehicles") == {(name, None): 1 for name in ("train", "car", "bus")}
    with pytest.raises(ConfigError, match="after # comes classes .* found 'klasses'"):
        find_images(f"{tmp_path / 'a'}#klasses")
    source = Source.of(f"{tmp_path / 'a'}#classes")
    assert (source.base, source.below) == (tmp_path / "a", "#classes")
    pictures(tmp_path / "a#classes", "x/1.png")  # a folder of this very name goes first
    assert placed(f"{tmp_path / 'a'}#classes") == {("x", None): 1}


def test_other_folders_beside_a_split_are_told_and_are_no_class(tmp_path: Path) -> None:
    pictures(tmp_path, "train/a/1.png", "test/a/2.png", "unlabelled/3.png")
    notes: list[str] = []
    assert placed(tmp_path, notes=notes) == {
        ("a", "train"): 1, ("a", "test"): 1, (None, ""): 1,
    }  # fmt: skip
    assert "unlabelled/ belong to no side: their images are learnt from" in notes[0]


def test_a_manifest_overrules_the_folders(tmp_path: Path) -> None:
    pictures(tmp_path, "train/a/1.png", "test/a/2.png")
    (tmp_path / "manifest.csv").write_text("path,split,label\ntrain/a/1.png,test,b\n")
    assert placed(tmp_path) == {("b", "test"): 1, ("a", "test"): 1}


def test_shards_may_tell_the_split_by_their_names(tmp_path: Path) -> None:
    for name in ("train-000", "train-001", "val-000"):
        np.save(tmp_path / "x.npy", np.zeros((2, 2)))
        pictures(tmp_path / "in", "a.png")
        import tarfile

        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            tar.add(tmp_path / "in" / "a.png", "a.png")
    (tmp_path / "x.npy").unlink()
    (tmp_path / "in" / "a.png").unlink()
    assert placed(tmp_path, parts=True) == {(None, "train"): 2, (None, "val"): 1}


# Links


def test_links_to_class_folders_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", "cat/1.png", "cat/deep/2.png")
    away = pictures(tmp_path / "away", "3.png", "more/4.png")
    (data / "dog").symlink_to(away)
    (data / "again").symlink_to(data / "cat" / "deep")
    (data / "cat" / "loop").symlink_to(data)
    (data / "cat" / "up").symlink_to(tmp_path)
    (away / "back").symlink_to(away)
    (data / "cat" / "linked.png").symlink_to(away / "3.png")
    (data / "gone").symlink_to(tmp_path / "nowhere")
    (data / "self").symlink_to(data / "self")
    notes: list[str] = []
    files = find_images(data, notes=notes)
    assert [file.path.relative_to(data).as_posix() for file in files] == [
        "cat/1.png", "cat/linked.png", "cat/deep/2.png", "dog/3.png", "dog/more/4.png",
    ]  # fmt: skip
    assert {file.label for file in files} == {"cat", "dog"}
    again, dead = notes
    assert again.startswith("links to folders that are read already, passed over (4)")
    assert dead.startswith("links that lead nowhere (2)")
    assert f"gone -> {tmp_path / 'nowhere'}" in dead
    assert passed_over(data) == {"no ending": 2}


def test_a_folder_of_nothing_but_links_is_a_data_set(tmp_path: Path) -> None:
    away = pictures(tmp_path / "away", "cat/1.png", "dog/2.png")
    (tmp_path / "data").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).symlink_to(away / name)
    (tmp_path / "as").symlink_to(tmp_path / "data")
    assert placed(tmp_path / "as") == {("cat", None): 1, ("dog", None): 1}


def test_a_dead_link_to_an_image_is_a_bad_image_that_says_why(tmp_path: Path) -> None:
    pictures(tmp_path, "1.png")
    (tmp_path / "2.png").symlink_to("/nowhere/x.png")
    dead = find_images(tmp_path)[1]
    with pytest.raises(DataError, match="a link to /nowhere/x.png, which is not there"):
        dead.read()


# Manifests


SPELLINGS = (
    "./cat/{}", "cat\\{}", ".\\cat\\{}", "Cat/{}", "CAT/{}", "cat//{}", "dog/../cat/{}", "data/cat/{}",
    "BASE/cat/{}",
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "spell"),
    [*((kind, spell) for kind in ("folder", "table") for spell in SPELLINGS), ("folder", "{}")],
)
def test_rows_find_their_files_however_they_are_spelt(
    tmp_path: Path, spell: str, kind: str
) -> None:
    data = pictures(tmp_path / "data", *(f"cat/É{n}.png" for n in range(4)), "dog/x.png")
    spell = spell.replace("BASE", str(data))
    rows = [
        f"{spell.format(unicodedata.normalize('NFD', f'É{n}.png'))},{'val' if n else 'train'}"
        for n in range(4)
    ]
    (data / "manifest.csv").write_text("\n".join(["path,split", *rows]))
    files = find_images(data if kind == "folder" else data / "manifest.csv")
    assert [f.columns.get("split") for f in files[:4]] == ["train", "val", "val", "val"]
    assert all(file.path.is_file() for file in files)
    train, _ = training_split(files[:4], 0.5, 0)
    assert train.tolist() == [0]


def test_case_decides_between_files_that_differ_by_nothing_else(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "A.png")
    (tmp_path / "manifest.csv").write_text("path,label\nA.PNG,x\nA.png,y\n")
    notes: list[str] = []
    files = find_images(tmp_path, notes=notes)
    assert {file.path.name: file.label for file in files} == {"A.png": "y", "a.png": None}
    assert any("1 of 2 rows name no image of the folder: A.PNG" in note for note in notes)
    assert any("1 of 2 images have no row: a.png" in note for note in notes)


@pytest.mark.parametrize(
    ("header", "separator"),
    [
        ("path,label", ","), ("Path;Label", ";"), ("filename\tlabel", "\t"), ("label,FILE", ","),
        ('"file_name"; "LABEL" ; note', ";"), ("sep=;\r\nFilePath;label", ";"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_are_read_as_spreadsheets_write_them(
    tmp_path: Path, header: str, separator: str, encoding: str
) -> None:
    pictures(tmp_path, "é.png")
    columns = [name.strip(' "').lower() for name in header.splitlines()[-1].split(separator)]
    row = separator.join({"label": "né", "note": "a,b"}.get(name, "é.png") for name in columns)
    (tmp_path / "list.csv").write_bytes(f"{header}\r\n{row}\r\n".encode(encoding))
    [file] = find_images(tmp_path / "list.csv")
    assert (file.path, file.label) == (tmp_path / "é.png", "né")


def test_names_that_are_no_utf8_are_matched_byte_by_byte(tmp_path: Path) -> None:
    pictures(tmp_path, os.fsdecode(b"caf\xe9.png"), "b.png")
    (tmp_path / "manifest.csv").write_bytes(b"path,label\ncaf\xe9.png,d\xe9faut\n")
    files = find_images(tmp_path)
    assert [file.label for file in files] == [None, r"d\xe9faut"]


def test_rows_and_files_without_a_match_are_counted_and_named(tmp_path: Path) -> None:
    pictures(tmp_path, *(f"{n}.png" for n in range(6)))
    (tmp_path / "manifest.csv").write_text("path,label\n0.png,a\n1.png,b\n9.png,a\n1.png,c\n")
    notes: list[str] = []
    files = find_images(tmp_path, notes=notes)
    assert [file.label for file in files] == ["a", "c", *[None] * 4]
    manifest = tmp_path / "manifest.csv"
    assert notes == [
        f"{manifest}: 1 of 4 rows name no image of the folder: 9.png",
        f"{manifest}: 1 images are named by several rows, the last one counts: 1.png",
        f"{manifest}: 4 of 6 images have no row: 2.png, 3.png, 4.png and 1 more",
    ]
    notes.clear()
    (tmp_path / "list.csv").write_text("path\n0.png\nx/gone.png\n")
    assert len(find_images(tmp_path / "list.csv", notes=notes)) == 2
    assert notes == [
        f"{tmp_path / 'list.csv'}: 1 of 2 rows name a file that is not there: x/gone.png"
    ]


@pytest.mark.parametrize("kind", ["manifest.csv", "list.csv"])
def test_a_manifest_that_fits_nothing_is_an_error(tmp_path: Path, kind: str) -> None:
    pictures(tmp_path, "cat/0.png")
    (tmp_path / kind).write_text("path,split\nother/1.png,val\nother/2.png,train\n")
    with pytest.raises(DataError, match=r"none of .*other/1\.png, other/2\.png"):
        find_images(tmp_path if kind == "manifest.csv" else tmp_path / kind)
    (tmp_path / kind).write_text("name_of_it,split\ncat/0.png,val\n")
    with pytest.raises(DataError, match=r"needs a column `path` .*found name_of_it, split"):
        find_images(tmp_path if kind == "manifest.csv" else tmp_path / kind)


@pytest.mark.parametrize("name", ["none", "None", "NA", "null", "nan", "N/A", "0", "-1"])
def test_a_class_may_be_called_anything_and_only_empty_cells_are_none(
    tmp_path: Path, name: str
) -> None:
    pandas = pytest.importorskip("pandas")
    pictures(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "list.csv").write_text(f"path,label\na.png,{name}\nb.png,\nc.png,x\n")
    rows = {"path": ["a.png", "b.png", "c.png"], "label": [name, None, "x"]}
    pandas.DataFrame(rows).to_parquet(tmp_path / "list.parquet")
    for table in ("list.csv", "list.parquet"):
        assert [file.label for file in find_images(tmp_path / table)] == [name, None, "x"]
    numbers = {"path": ["a.png", "b.png"], "label": [1.5, float("nan")]}
    pandas.DataFrame(numbers).to_parquet(tmp_path / "numbers.parquet")
    assert [f.label for f in find_images(tmp_path / "numbers.parquet")] == ["1.5", None]
    pictures(tmp_path / "folder", f"{name.replace('/', '-')}/a.png")
    assert find_images(tmp_path / "folder")[0].label == name.replace("/", "-")


# A folder's own manifest


def test_an_empty_label_cell_is_no_class_whatever_the_folder(tmp_path: Path) -> None:
    pictures(tmp_path, "cat/1.png", "cat/2.png", "cat/3.png")
    (tmp_path / "manifest.csv").write_text("path,label\ncat/1.png,tabby\ncat/2.png,\n")
    assert [file.label for file in find_images(tmp_path)] == ["tabby", None, "cat"]
    (tmp_path / "manifest.csv").write_text("path,site\ncat/1.png,a\ncat/2.png,\n")
    assert [file.label for file in find_images(tmp_path)] == ["cat", "cat", "cat"]


@pytest.mark.parametrize(
    ("train", "held", "side"),
    [
        ("training_set", "test_set", "test"), ("train2017", "val2017", "val"),
        ("train_images", "test-images", "test"), ("train", "eval", "val"),
        ("Training Set", "Evaluation", "val"), ("train_images_2014", "val-2014", "val"),
    ],
)  # fmt: skip
def test_split_folders_as_data_sets_call_them(
    tmp_path: Path, train: str, held: str, side: str
) -> None:
    pictures(tmp_path, f"{train}/a/1.png", f"{held}/a/2.png")
    assert placed(tmp_path) == {("a", "train"): 1, ("a", side): 1}


@pytest.mark.parametrize("names", [("train_a", "test_a"), ("trains", "tests"), ("set", "2017")])
def test_other_words_are_classes(tmp_path: Path, names: tuple[str, str]) -> None:
    pictures(tmp_path, *(f"{name}/1.png" for name in names))
    assert placed(tmp_path) == {(name, None): 1 for name in names}


@pytest.mark.parametrize("kind", ["folder", "list"])
def test_misspelt_values_of_split_are_told(tmp_path: Path, kind: str) -> None:
    pictures(tmp_path, *(f"{n}.png" for n in range(6)))
    values = ["train", "trian", "trian", "val", "tst", ""]
    rows = [f"{n}.png,{value}" for n, value in enumerate(values)]
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join(["path,split", *rows]))
    notes: list[str] = []
    find_images(tmp_path if kind == "folder" else manifest, notes=notes)
    [note] = notes
    assert "2 values of its column `split` are not understood" in note
    assert "'trian' (2), 'tst' (1). Known are train, training, val" in note


@pytest.mark.parametrize(
    ("name", "column", "mark"),
    [
        ("Manifest.CSV", "path", ","),
        ("manifest.tsv", "path", "\t"),
        ("metadata.csv", "file_name", ","),
    ],
)
def test_a_folders_manifest_by_its_other_names(
    tmp_path: Path, name: str, column: str, mark: str
) -> None:
    pictures(tmp_path, "1.png")
    (tmp_path / name).write_text(f"{column}{mark}label\n1.png{mark}a\n")
    assert placed(tmp_path) == {("a", None): 1}


def test_of_several_manifests_the_others_are_told(tmp_path: Path) -> None:
    pictures(tmp_path, "1.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\n1.png,b\n")
    (tmp_path / "manifest.csv").write_text("path,label\n1.png,a\n")
    notes: list[str] = []
    assert placed(tmp_path, notes=notes) == {("a", None): 1}
    assert notes == [f"{tmp_path / 'metadata.csv'}: not read, manifest.csv goes first"]


def test_a_metadata_table_that_names_no_files_is_told_and_not_read(tmp_path: Path) -> None:
    pictures(tmp_path, "1.png")
    (tmp_path / "metadata.csv").write_text("image_id,age\n7,40\n")
    notes: list[str] = []
    assert placed(tmp_path, notes=notes) == {(None, None): 1}
    assert notes == [f"{tmp_path / 'metadata.csv'}: not read, it has no column `file_name`"]


@pytest.mark.parametrize(
    "layout",
    [
        ("b/x.png", "a/y.png", "z.png"),
        ("train/cat/1.png", "test/cat/2.png", "test/dog/3.png"),
        ("cat/train/1.png", "cat/val/2.png", "dog/train/3.png", "dog/val/4.png"),
    ],
)
@pytest.mark.parametrize("manifest", [False, True])
def test_images_one_by_one_are_those_of_the_list(
    layout: tuple[str, ...], manifest: bool, tmp_path: Path
) -> None:
    pictures(tmp_path, *layout)
    pages = [Image.new("L", (4, 4), n) for n in range(3)]
    pages[0].save(tmp_path / layout[0].replace(".png", ".tif"), save_all=True, append_images=pages)
    (tmp_path / "packed.zip").write_bytes(b"PK")
    (tmp_path / "dead.png").symlink_to("nowhere.png")
    (tmp_path / "again").symlink_to(tmp_path / layout[0].split("/")[0], target_is_directory=True)
    if manifest:
        (tmp_path / "manifest.csv").write_text(f"path,label\n{layout[0]},mine\n")
    listed: list[str] = []
    told: list[str] = []
    files = find_images(tmp_path, parts=True, notes=listed)
    found = list(each_image(tmp_path, notes=told))
    assert [(f, f.columns) for f in found] == [(f, f.columns) for f in files]
    assert told == listed


def test_one_by_one_a_folder_without_images_is_refused_at_its_end(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images found"):
        list(each_image(tmp_path))
