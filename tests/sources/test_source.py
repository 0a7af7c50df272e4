"""Where images come from is read once, from the words on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from jepack.errors import ConfigError, DataError
from jepack.files import cache_root
from jepack.sources import Source


def made(folder: Path) -> Path:
    (folder / "photos").mkdir()
    (folder / "scan.zarr").mkdir()
    (folder / "scan.zarr" / "zarr.json").touch()
    for name in ("list.csv", "scan.h5", "a.tar", "one.png", "b#c.png"):
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("words", "kind", "base", "below"),
    [
        ("photos", "folder", "photos", ""),
        ("photos/", "folder", "photos", ""),
        ("photos#classes", "folder", "photos", "#classes"),
        ("list.csv", "manifest", "", "list.csv"),
        ("scan.h5#/x,/y", "file", "", "scan.h5#/x,/y"),
        ("scan.zarr", "file", "", "scan.zarr"),
        ("a.tar", "file", "", "a.tar"),
        ("b#c.png", "file", "", "b#c.png"),
        ("{000..002}.tar", "shards", "", "{000..002}.tar"),
    ],
)
def test_what_lies_here_is_told_by_its_kind_and_names_count_from_its_folder(
    tmp_path: Path, words: str, kind: str, base: str, below: str
) -> None:
    source = Source.of(f"{made(tmp_path)}/{words}")
    assert (source.kind, source.base, source.below) == (kind, tmp_path / base, below)
    assert not source.away
    assert Source.of(source) is source


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("https://example.org/{00..12}.tar", "shards"),
        ("http://example.org/a.tar", "shards"),
        ("hf:someone/birds:train", "hub"),
    ],
)
def test_what_lies_elsewhere_keeps_its_words_and_is_kept_in_the_cache(
    words: str, kind: str
) -> None:
    source = Source.of(words)
    assert (source.kind, str(source), source.away, source.base) == (kind, words, True, cache_root())
    assert source.absolute() == source


def test_a_range_names_each_shard() -> None:
    shards = Source.of("https://example.org/{008..010}.tar").shards
    assert shards == [f"https://example.org/{number}.tar" for number in ("008", "009", "010")]


def test_names_count_from_the_same_folder_wherever_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made(tmp_path))
    assert Source.of("photos").absolute().base == tmp_path / "photos"


def test_words_that_name_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder of images, nor a manifest"):
        Source.of(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="after # comes classes .* found 'other'"):
        Source.of(f"{made(tmp_path)}/photos#other")
