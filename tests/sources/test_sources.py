"""Every source gives the same images as a folder of files would."""

from __future__ import annotations

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jepack.decoding import decode, read_raw
from jepack.errors import DataError, DependencyError
from jepack.sources import ImageFile, find_images
from training.data import guess_channels, measure_window, open_cache


def stack(count: int = 5, shape: tuple[int, ...] = (20, 24), kind: Any = np.uint8) -> Any:
    top = 255 if kind == np.uint8 else 4000
    return np.random.default_rng(0).integers(0, top, (count, *shape)).astype(kind)


def png(values: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def pixels(files: list[ImageFile], channels: int = 1, window: Any = None) -> Any:
    return np.stack([decode(file.read(), channels, window) for file in files])


def test_a_manifest_names_images_labels_groups_and_boxes(tmp_path: Path) -> None:
    images = stack(3)
    for number, image in enumerate(images):
        png(image, tmp_path / "img" / f"{number}.png")
    (tmp_path / "list.csv").write_text(
        "path,label,patient,box\nimg/2.png,cat,p1,2 3 10 12\nimg/0.png,,p2,\n"
    )
    found = find_images(tmp_path / "list.csv")
    assert [file.label for file in found] == ["cat", None]
    assert [file.columns["patient"] for file in found] == ["p1", "p2"]
    assert found[0].box == (2.0, 3.0, 10.0, 12.0)
    assert np.array_equal(pixels(found)[..., 0], images[[2, 0]])


def test_a_parquet_manifest_is_the_same(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    png(stack(1)[0], tmp_path / "a.png")
    pandas.DataFrame({"path": ["a.png"], "label": ["x"], "site": [3]}).to_parquet(
        tmp_path / "m.parquet"
    )
    [file] = find_images(tmp_path / "m.parquet")
    assert (file.label, file.columns) == ("x", {"site": "3"})


def test_a_folder_takes_columns_from_its_manifest(tmp_path: Path) -> None:
    png(stack(1)[0], tmp_path / "cat" / "a.png")
    png(stack(1)[0], tmp_path / "cat" / "b.png")
    (tmp_path / "manifest.csv").write_text("path,scanner\ncat/b.png,s7\n")
    found = find_images(tmp_path)
    assert [(file.label, file.columns) for file in found] == [
        ("cat", {}),
        ("cat", {"scanner": "s7"}),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no rows"),
        ("picture,label\na.png,x\n", "needs a column `path` .*; found picture, label"),
        ("path,box\na.png,1 2 3\n", "row 2: box is '1 2 3', need left top width height"),
    ],
)
def test_a_manifest_that_cannot_be_used_says_why(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        find_images(tmp_path / "m.csv")


def test_a_missing_file_of_a_manifest_is_a_bad_image(tmp_path: Path) -> None:
    for number, image in enumerate(stack(3)):
        png(image, tmp_path / f"{number}.png")
    (tmp_path / "m.csv").write_text("path\n0.png\n1.png\n2.png\ngone.png\n")
    cache = open_cache(tmp_path / "m.csv", side=20, channels=1, root=tmp_path / "c", max_bad=0.5)
    assert len(cache) == 3
    assert cache.bad == (
        (str(tmp_path / "gone.png"), "cannot be read (No such file or directory)"),
    )


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_webdataset_shards_give_pictures_and_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wds = pytest.importorskip("webdataset")
    images = stack(6)
    for shard in range(2):
        with wds.TarWriter(str(tmp_path / f"train-{shard:03d}.tar")) as writer:
            for n in range(3 * shard, 3 * shard + 3):
                sample = {"__key__": f"s{n}", "png": Image.fromarray(images[n])}
                writer.write(
                    sample | ({"cls": n % 2} if shard else {"json": {"label": "a", "site": n}})
                )
    found = find_images(str(tmp_path / "train-{000..001}.tar"), parts=True)
    assert np.array_equal(pixels(found)[..., 0], images)
    assert [file.label for file in found] == ["a", "a", "a", "1", "0", "1"]
    assert found[2].columns == {"site": "2"}
    assert len(find_images(tmp_path, parts=True)) == 6
    monkeypatch.setenv("JEPACK_CACHE", str(tmp_path / "cache"))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/train-{{000..001}}.tar"
        by_address = find_images(address, parts=True)
        with pytest.raises(DataError, match=r"nothing\.tar: cannot be fetched .*404"):
            find_images(f"http://127.0.0.1:{server.server_port}/nothing.tar", parts=True)
        server.shutdown()
    assert np.array_equal(pixels(by_address)[..., 0], images)


def test_hugging_face_parquet_and_saved_data_sets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    images = stack(7, (16, 16, 3))
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    rows = {"image": [Image.fromarray(image) for image in images], "label": [0, 1, 0, 1, 0, -1, 1]}
    data = datasets.Dataset.from_dict(rows, features=features)
    data.to_parquet(tmp_path / "train.parquet", batch_size=3)
    data.save_to_disk(str(tmp_path / "saved"))
    for source in (tmp_path / "train.parquet", tmp_path / "saved"):
        found = find_images(source, parts=True)
        assert np.array_equal(pixels(found, 3), images)
        assert [file.label for file in found] == ["cat", "dog", "cat", "dog", "cat", None, "dog"]


def test_a_data_set_by_name_keeps_its_splits_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library takes a local folder for a name as it takes OWNER/NAME."""
    datasets = pytest.importorskip("datasets")
    from training.data import training_split

    monkeypatch.setenv("JEPACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    images = stack(9, (16, 16, 3))
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    for split, chosen in (("train", images[:6]), ("test", images[6:])):
        rows = {"image": [Image.fromarray(image) for image in chosen], "label": [1] * len(chosen)}
        data = datasets.Dataset.from_dict(rows, features=features)
        data.to_parquet(tmp_path / "birds" / "data" / f"{split}-00000-of-00001.parquet")
    found = find_images(f"hf:{tmp_path / 'birds'}", parts=True)
    assert np.array_equal(pixels(found, 3), images)
    assert {file.label for file in found} == {"dog"}
    train, held_out = training_split(found, 0.5, seed=0)
    assert (train.tolist(), held_out.tolist()) == ([0, 1, 2, 3, 4, 5], [6, 7, 8])
    assert len(find_images(f"hf:{tmp_path / 'birds'}:test", parts=True)) == 3
    with pytest.raises(DataError, match="hf:.*nowhere: `datasets` cannot load it"):
        find_images(f"hf:{tmp_path / 'nowhere'}", parts=True)


@pytest.mark.parametrize("kind", ["hdf5", "zarr", "npy"])
def test_slices_of_arrays_are_images(tmp_path: Path, kind: str) -> None:
    values = stack(4, (18, 22, 1), np.int16) - 1000
    if kind == "hdf5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(tmp_path / "scan.h5", "w") as file:
            file["group/x"] = values
            file["ids"] = np.arange(4)
    elif kind == "zarr":
        pytest.importorskip("zarr").save(str(tmp_path / "scan.zarr"), values)
    else:
        np.save(tmp_path / "scan.npy", values)
    found = find_images(tmp_path, parts=True)
    assert np.array_equal(np.stack([read_raw(file.read()).values for file in found]), values)
    with pytest.raises(DataError, match="--window"):
        open_cache(tmp_path, side=18, channels=1, root=tmp_path / "c")
    window = measure_window(found, "p1,p99", 1)
    assert isinstance(window, tuple)
    assert window[0][0] == pytest.approx(np.percentile(values, 1), abs=20)
    cache = open_cache(tmp_path, side=18, channels=1, window=window, root=tmp_path / "c")
    again = decode(found[2].read(), 1, window)
    assert np.array_equal(cache[2], again)


def test_pages_of_a_tiff_are_images_and_a_pyramid_is_one(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = stack(3, (20, 24), np.uint16)
    tifffile.imwrite(tmp_path / "stack.tif", values, photometric="minisblack")
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as writer:
        writer.write(values[0])
        writer.write(values[0, ::2, ::2])
    found = find_images(tmp_path, parts=True)
    assert [file.part for file in found] == [None, "page=0", "page=1", "page=2"]
    assert np.array_equal(read_raw(found[2].read()).values[..., 0], values[1])


def test_frames_of_dicom_keep_their_window(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    values = stack(4, (10, 12), np.uint16)
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SOPClassUID, dataset.NumberOfFrames = SecondaryCaptureImageStorage, 4
    dataset.Rows, dataset.Columns = 10, 12
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME1"
    dataset.WindowCenter, dataset.WindowWidth = 2000, 4001
    dataset.PixelData = values.tobytes()
    dataset.save_as(tmp_path / "frames.dcm", enforce_file_format=True)
    found = find_images(tmp_path, parts=True)
    assert len(found) == 4
    assert np.array_equal(read_raw(found[3].read()).values[..., 0], values[3])
    shown = np.rint(np.clip((values[3] - (2000 - 0.5 - 2000)) / 4000, 0, 1) * 255)
    assert np.array_equal(decode(found[3].read(), 1, "dicom")[..., 0], 255 - shown)


def test_windows_of_a_geotiff_skip_what_holds_no_data(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    values = stack(4, (96, 128), np.int16) + 1
    values[:, :, 64:96] = -9999
    with rasterio.open(
        tmp_path / "scene.tif", "w", driver="GTiff", width=128, height=96, count=4, dtype="int16",
        nodata=-9999, transform=rasterio.Affine(10, 0, 0, 0, -10, 0),
    ) as scene:  # fmt: skip
        scene.write(values)
    found = find_images(tmp_path, parts=True, tile=32)
    assert [file.part for file in found] == [
        f"window={top},{left},32,32" for top in (0, 32, 64) for left in (0, 32, 96)
    ]
    assert guess_channels(found) == 4
    whole = np.moveaxis(values, 0, 2)
    assert np.array_equal(read_raw(found[4].read()).values, whole[32:64, 32:64])
    overlapping = find_images(tmp_path, parts=True, tile=32, stride=16)
    assert "window=16,32,32,32" in [file.part for file in overlapping]
    half = next(file for file in overlapping if file.part == "window=0,48,32,32")
    shown = decode(half.read(), 4, ((0.0, 4001.0),))
    assert shown[:, 16:].max() == 0
    assert shown[:, :16].max() > 200


def test_boxes_keep_the_crops_on_what_matters(tmp_path: Path) -> None:
    from training.views import crop_boxes, draw, preset

    png(np.zeros((100, 200), np.uint8), tmp_path / "a.png")
    (tmp_path / "m.csv").write_text("path,box\na.png,120 20 40 40\n")
    cache = open_cache(tmp_path / "m.csv", side=50, channels=1, root=tmp_path / "c")
    assert cache.regions is not None
    assert cache.regions.tolist() == [[10, 60, 20, 20]]
    numbers = draw(200, 1, seed=0, step=0)
    found = crop_boxes(cache.shapes, numbers, 16, (0.05, 0.2), preset("none"), cache.regions).box
    centres = found[:, 0, :2] + found[:, 0, 2:] / 2
    assert (centres >= [9, 59]).all()
    assert (centres <= [31, 81]).all()


def test_files_with_many_images_are_refused_where_one_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    datasets = pytest.importorskip("datasets")
    rows = {"image": [Image.fromarray(stack(1)[0])]}
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    with pytest.raises(DataError, match="many images in one file"):
        find_images(path)


def test_a_missing_reader_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(DependencyError, match=r"pip install 'jepack\[hdf5\]'"):
        find_images(tmp_path, parts=True)


def test_a_stopped_build_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jepack.sources import crashes

    for number, image in enumerate(stack(20)):
        png(image, tmp_path / "data" / f"{number:02d}.png")
    monkeypatch.setattr(crashes, "BLOCK", 4)
    seen: list[int] = []

    def stop(done: int, total: int) -> None:
        seen.append(done)
        if done == 12 and len(seen) < 5:
            raise KeyboardInterrupt

    arguments: Any = {"side": 20, "channels": 1, "root": tmp_path / "c"}
    with pytest.raises(KeyboardInterrupt):
        open_cache(tmp_path / "data", **arguments, on_progress=stop)
    [left] = (tmp_path / "c").glob(".*.partial")
    with (left / "done.jsonl").open("a") as stream:
        stream.write('{"shape": [20')  # as a crash leaves it
    with (left / "pixels.bin").open("ab") as pixels_file:
        pixels_file.write(b"half an image")
    cache = open_cache(tmp_path / "data", **arguments, on_progress=lambda d, t: seen.append(d))
    assert seen == [4, 8, 12, 16, 20]
    assert np.array_equal(np.stack([cache[n][..., 0] for n in range(20)]), stack(20))


def test_a_disk_that_is_too_small_is_told_before_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jepack.sources import crashes
    from training.data import building

    for number, image in enumerate(stack(8)):
        png(image, tmp_path / "data" / f"{number}.png")
    monkeypatch.setattr(crashes, "BLOCK", 4)
    monkeypatch.setattr(building, "SPARE_BYTES", 1 << 60)
    with pytest.raises(DataError, match=r"decoding the other 4 images needs about .* are free"):
        open_cache(tmp_path / "data", side=20, channels=1, root=tmp_path / "c")


def test_the_index_of_a_cache_is_plain_json(tmp_path: Path) -> None:
    png(stack(1)[0], tmp_path / "data" / "a.png")
    cache = open_cache(tmp_path / "data", side=20, channels=1, root=tmp_path / "c")
    assert json.loads((cache.folder / "index.json").read_text())["parts"] == [None]
