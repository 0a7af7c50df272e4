"""Of HDF5 and zarr only what holds images becomes images: no masks, labels or smaller levels."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepack.decoding import read_raw
from jepack.errors import DataError, TooLargeError
from jepack.sources import Source, find_images

RNG = np.random.default_rng(0)


def values(*shape: int, kind: Any = np.uint8) -> Any:
    return RNG.integers(0, 200, shape).astype(kind)


def h5(path: Path, **arrays: Any) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name.replace("__", "/")] = array
    return path


def taken(data: Any, notes: list[str] | None = None) -> dict[str, int]:
    """Images of each array."""
    found: dict[str, int] = {}
    for file in find_images(data, parts=True, notes=notes):
        assert file.part is not None
        name = file.part.removeprefix("slice=").rpartition(":")[0]
        found[name] = found.get(name, 0) + 1
    return found


@pytest.mark.parametrize(
    ("arrays", "wanted"),
    [
        # images, masks of their size, class numbers
        ({"images": (6, 8, 8, 3), "masks": (6, 8, 8), "y": (6, 1, 1, 1)}, {"/images": 6}),
        # masks of the same shape and type are told by their name alone
        ({"x": (6, 8, 8), "x_mask": (6, 8, 8), "gt": (6, 8, 8)}, {"/x": 6}),
        # a patient is a group, and each scan has its own size
        (
            {"p1__ct": (5, 8, 8), "p1__seg": (5, 8, 8), "p2__ct": (4, 6, 10), "p2__seg": (4, 6, 10)},
            {"/p1/ct": 5, "/p2/ct": 4},
        ),
        # an array for each image, of any size
        (
            {"i__001": (9, 8, 3), "i__002": (7, 7, 3), "i__10": (5, 9, 3)},
            {"/i/001": 1, "/i/002": 1, "/i/10": 1},
        ),
        # halved and halved again, without a word about it
        ({"0": (4, 64, 48), "1": (4, 32, 24), "2": (4, 16, 12)}, {"/0": 4}),
        # only masks: then these are what there is
        ({"masks": (3, 8, 8)}, {"/masks": 3}),
    ],
)  # fmt: skip
def test_only_arrays_like_the_largest_are_images(
    tmp_path: Path, arrays: dict[str, tuple[int, ...]], wanted: dict[str, int]
) -> None:
    path = h5(tmp_path / "a.h5", **{name: values(*shape) for name, shape in arrays.items()})
    notes: list[str] = []
    assert taken(path, notes) == wanted
    left = sorted("/" + name.replace("__", "/") for name in arrays)
    left = [name for name in left if name not in wanted]
    assert len(notes) == bool(left)
    assert not left or f"left out: {', '.join(left[:3])}" in notes[0]


def test_another_type_is_no_image_of_the_same_kind(tmp_path: Path) -> None:
    path = h5(tmp_path / "a.h5", scan=values(4, 8, 8, kind=np.int16), found=values(4, 8, 8))
    assert taken(path) == {"/scan": 4}


def test_arrays_are_chosen_by_name(tmp_path: Path) -> None:
    arrays = {
        "train__x": values(3, 8, 8, 3),
        "train__m": values(3, 8, 8),
        "test__m": values(2, 8, 8),
    }
    path = h5(tmp_path / "a.h5", **arrays)
    assert taken(path) == {"/train/x": 3}
    assert taken(f"{path}#/train/m") == {"/train/m": 3}
    assert taken(f"{path}#/train/m,/test") == {"/train/m": 3, "/test/m": 2}
    assert taken(f"{tmp_path}#/test/m") == {"/test/m": 2}  # of every file of the folder
    data = Path(f"{path}#/train/m")
    source = Source.of(data)
    assert (source.base, source.below) == (tmp_path, "a.h5#/train/m")
    [file, *_] = find_images(source.base / source.below, parts=True)
    assert np.array_equal(read_raw(file.read()).values[..., 0], arrays["train__m"][0])
    assert file.name_below(tmp_path) == "a.h5#slice=/train/m:0"
    with pytest.raises(DataError, match="holds no array /y; there are /test/m, /train/m, /train/x"):
        find_images(f"{path}#/y", parts=True)


def test_arrays_called_train_and_test_are_the_split(tmp_path: Path) -> None:
    path = h5(tmp_path / "a.h5", x_train=values(3, 8, 8), x_test=values(2, 8, 8))
    notes: list[str] = []
    files = find_images(path, parts=True, notes=notes)
    assert [file.columns["split"] for file in files] == ["test"] * 2 + ["train"] * 3
    assert notes == [f"{path}: the arrays /x_test, /x_train are taken as the split"]


def test_many_files_alike_are_told_once(tmp_path: Path) -> None:
    for number in range(3):
        h5(tmp_path / f"{number}.h5", x=values(2, 8, 8), x_mask=values(2, 8, 8))
    notes: list[str] = []
    assert len(find_images(tmp_path, parts=True, notes=notes)) == 6
    [note] = notes
    assert "and 2 more: the images are /x; left out: /x_mask" in note


def test_links_inside_a_file_neither_loop_nor_count_twice(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a/x"] = values(2, 8, 8)
        file["a/back"] = file["/"]
        file["b"] = h5py.SoftLink("/a")
        file["c"] = h5py.SoftLink("/nowhere")
        file["d"] = h5py.ExternalLink("gone.h5", "/x")
    assert taken(tmp_path / "a.h5") == {"/a/x": 2}


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_of_ome_zarr_only_the_full_image_is_read(tmp_path: Path, version: str) -> None:
    zarr = pytest.importorskip("zarr")
    root = zarr.open_group(str(tmp_path / "cells.zarr"), mode="w")
    full = values(3, 40, 32, kind=np.uint16)
    scales = [{"datasets": [{"path": name} for name in ("s0", "s1", "s2")]}]
    told = {"multiscales": scales}
    root.attrs.update({"ome": {"version": version, **told}} if version == "0.5" else told)
    for name, step in (("s0", 1), ("s1", 3), ("s2", 9)):  # not halved: the metadata counts
        small = full[:, ::step, ::step]
        root.create_array(name, shape=small.shape, dtype=small.dtype)[...] = small
    cells = root.create_group("labels/cells")
    cells.create_array("0", shape=full.shape, dtype=full.dtype)[...] = 1
    notes: list[str] = []
    assert taken(tmp_path / "cells.zarr", notes) == {"/s0": 3}
    assert "left out: /labels/cells/0, /s1, /s2" in notes[0]


@pytest.mark.parametrize(
    ("arrays", "wanted"),
    [
        # features, spectra and patch tokens take more bytes than the pictures they belong to
        ({"a": ((6, 16, 16, 3), "u1"), "b": ((6, 4096), "f4")}, {"/a": 6}),
        ({"a": ((6, 16, 16), "u2"), "spectra": ((6, 64, 64), "f4")}, {"/a": 6}),
        ({"a": ((6, 16, 16, 3), "u1"), "b": ((6, 8, 8, 384), "f4")}, {"/a": 6}),
        ({"pics": ((6, 16, 16, 3), "u1"), "b": ((6, 49, 384), "f4")}, {"/pics": 6}),
        ({"a": ((6, 16, 16), "u1"), "b": ((6, 2, 2048), "f4")}, {"/a": 6}),
        ({"images": ((6, 16, 16), "f4"), "b": ((6, 40, 40), "f4")}, {"/images": 6}),
        # points in space are no coloured picture
        ({"a": ((6, 16, 16), "u1"), "cloud": ((4000, 60, 3), "f4")}, {"/a": 6}),
        # a mask in every size, by another name than mask
        (
            {
                "a": ((6, 16, 16, 3), "u1"),
                "TissueMask__0": ((6, 64, 64), "u1"), "TissueMask__1": ((6, 32, 32), "u1"),
            },
            {"/a": 6},
        ),
        ({"a": ((6, 16, 16), "u1"), "b": ((6, 64, 64), "?")}, {"/a": 6}),
        # the depth map of a scene, or the found cells of a scan: the deeper one of a shape
        ({"a": ((6, 16, 16), "i2"), "b": ((6, 16, 16), "u1")}, {"/a": 6}),
        # beside each other only a table: then that is what there is
        ({"b": ((60, 40), "f4")}, {"/b": 1}),
    ],
)  # fmt: skip
def test_what_looks_like_pictures_is_taken_before_what_is_larger(
    tmp_path: Path, arrays: dict[str, Any], wanted: dict[str, int]
) -> None:
    path = h5(tmp_path / "a.h5", **{n: np.ones(shape, kind) for n, (shape, kind) in arrays.items()})
    notes: list[str] = []
    assert taken(path, notes) == wanted
    assert not notes or f"the images are {next(iter(wanted))}; left out: " in notes[0]
    other = "/" + next(reversed(arrays)).replace("__", "/")
    assert set(taken(f"{path}#{other}")) == {other}


def test_arrays_that_may_each_be_the_images_are_asked_about(tmp_path: Path) -> None:
    arrays = {
        "left": values(6, 16, 16, 3),
        "right": values(6, 20, 20, 3),
        "masks": values(6, 90, 90),
    }
    path = h5(tmp_path / "a.h5", **arrays)
    words = r"either of its arrays /right \(6 x 20 x 20 x 3 uint8\) and /left .* DATA#/right or DATA#/left"
    with pytest.raises(DataError, match=words):
        find_images(path, parts=True)
    assert taken(f"{path}#/left") == {"/left": 6}
    assert taken(f"{path}#/left,/right") == {"/left": 6, "/right": 6}


def test_channels_of_ome_zarr_are_channels_and_time_and_depth_are_images(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    root = zarr.open_group(str(tmp_path / "cells.zarr"), mode="w")
    full = values(2, 4, 3, 24, 32, kind=np.uint16)
    axes = [{"name": name} for name in "tczyx"]
    root.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0"}, {"path": "1"}]}]
    root.create_array("0", shape=full.shape, dtype=full.dtype)[...] = full
    root.create_array("1", shape=(2, 4, 3, 12, 16), dtype=full.dtype)[...] = 1
    cells = root.create_group("cells")  # labels by their metadata alone
    cells.attrs["image-label"] = {"colors": []}
    cells.create_array("0", shape=(6, 24, 32), dtype="u2")[...] = 1
    files = find_images(tmp_path / "cells.zarr", parts=True)
    assert [file.part for file in files] == [f"planes=/0@tczyx:{n}" for n in range(6)]
    for number, file in enumerate(files):
        wanted = np.moveaxis(full[number // 3, :, number % 3], 0, 2)
        assert np.array_equal(read_raw(file.read()).values, wanted)


@pytest.mark.parametrize("kind", ["hdf5", "zarr"])
def test_a_chunk_that_unpacks_to_more_than_it_says_is_refused_before(
    tmp_path: Path, kind: str
) -> None:
    bomb = (gzip if kind == "zarr" else zlib).compress(bytes(100_000_000), 9)
    if kind == "zarr":
        zarr = pytest.importorskip("zarr")
        path = tmp_path / "a.zarr"
        array = zarr.create_array(
            str(path), shape=(3, 8, 8), chunks=(1, 8, 8), dtype="u1",
            compressors=pytest.importorskip("zarr.codecs").GzipCodec(),
        )  # fmt: skip
        array[...] = 5
        (path / "c/0/0/0").write_bytes(bomb)
    else:
        path = tmp_path / "a.h5"
        with pytest.importorskip("h5py").File(path, "w") as file:
            array = file.create_dataset(
                "x", (3, 8, 8), chunks=(1, 8, 8), dtype="u1", compression="gzip"
            )
            array.id.write_direct_chunk((0, 0, 0), bomb)
            array[1:] = 5
    first, *others = find_images(path, parts=True)
    with pytest.raises(TooLargeError, match="where 64 are due"):
        first.read()
    assert all((read_raw(file.read()).values == 5).all() for file in others)


def test_a_chunk_larger_than_any_image_is_refused(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    zarr.create_array(
        str(tmp_path / "a.zarr"), shape=(2, 8, 8), chunks=(1, 40000, 40000), dtype="u1"
    )
    file, _ = find_images(tmp_path / "a.zarr", parts=True)
    with pytest.raises(TooLargeError, match="smaller chunks"):
        file.read()
