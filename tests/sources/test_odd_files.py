"""What lies in people's folders beside plain pictures: it never hangs a command, and is what it is."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from jepack.client.items import read
from jepack.decoding import decode
from jepack.errors import DataError
from jepack.sources import ImageFile, find_images
from training.data import decode_file

pytestmark = pytest.mark.timeout(60)


def picture(turn: int = 0) -> Any:
    y, x = np.mgrid[0:32, 0:48]
    return np.roll(np.stack([5 * x, 7 * y, x + y], axis=-1).astype(np.uint8), turn, axis=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One picture, and things that reading would wait on for ever."""
    Image.fromarray(picture()).save(tmp_path / "a.png")
    for name in ("p.png", "p.tif", "p.npy", "p.dcm", "p.h5", "p.tar", "p.parquet", "manifest.csv"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "zeros.png").symlink_to("/dev/zero")
    (tmp_path / "zeros.tif").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(tmp_path / "s.png"))  # a socket's name has at most 107 bytes
    return tmp_path


def test_pipes_sockets_and_devices_are_passed_over_and_told(folder: Path) -> None:
    for parts in (True, False):
        notes: list[str] = []
        assert [file.path.name for file in find_images(folder, parts=parts, notes=notes)] == [
            "a.png"
        ]
        assert notes[0].startswith("pipes, sockets and devices, passed over (11): ")


def test_a_pipe_that_is_asked_for_by_name_is_a_bad_image_that_says_so(folder: Path) -> None:
    names = ("p.png", "p.tif", "p.dcm", "p.h5", "p.npy", "zeros.png", "zeros.tif", "s.png")
    (folder / "list.csv").write_text("path\na.png\n" + "\n".join(names))
    found: dict[str, str] = {}
    for file in find_images(folder / "list.csv", parts=True)[1:]:
        with pytest.raises(DataError) as told:
            decode_file(file, 32, 3, None)
        found[file.path.name] = str(told.value)
    assert set(found) == set(names)
    assert found["p.tif"] == "is a pipe, not a file"
    assert found["zeros.tif"] == "is a device, not a file"
    assert found["s.png"] == "is a socket, not a file"
    with pytest.raises(DataError, match="its mask cannot be used: .*is a pipe"):
        decode_file(ImageFile(folder / "a.png", mask=folder / "p.png"), 32, 3, None)
    with pytest.raises(DataError, match="is a pipe"):
        read(folder / "p.png")  # of the client
    with pytest.raises(DataError, match="is a device"):
        decode(folder / "zeros.png", 3)


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tif", "mpo", "avif"])
def test_of_a_moving_picture_the_first_frame_is_the_image(kind: str, tmp_path: Path) -> None:
    if kind == "avif" and not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    first, *others = [Image.fromarray(picture(turn)) for turn in (0, 9, 18)]
    how: dict[str, Any] = {"lossless": True} if kind == "webp" else {"quality": 95}
    path = tmp_path / f"a.{kind}"
    first.save(path, save_all=True, append_images=others, **how)
    files = find_images(tmp_path, parts=True)
    assert len(files) == (3 if kind == "tif" else 1)  # pages are images, frames of a film are not
    assert np.abs(decode(files[0].read(), 3).astype(int) - picture()).mean() < 12


@pytest.mark.parametrize("kind", ["jpg", "tif"])
def test_inks_with_a_profile_are_the_colours_they_print(kind: str, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / f"a.{kind}"
    Image.fromarray(picture()).convert("CMYK").save(path, icc_profile=profile, quality=95)
    assert np.abs(decode(path, 3).astype(int) - picture()).mean() < 3


@pytest.mark.parametrize("start", [b"<svg", b"\xef\xbb\xbf\n <svg", b'<?xml version="1.0"?>\n<svg'])
def test_a_drawing_that_is_called_a_picture_is_named(start: bytes) -> None:
    with pytest.raises(DataError, match="it is an SVG drawing"):
        decode(start + b' xmlns="http://www.w3.org/2000/svg"/>', 3)


def test_smaller_copies_and_masks_on_pages_are_no_images(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffWriter(tmp_path / "a.tif") as stack:
        for turn in (0, 9):
            stack.write(picture(turn), photometric="rgb")
            stack.write(picture(turn)[::2, ::2], photometric="rgb", subfiletype=1)
            stack.write(picture(turn)[..., 0] > 40, photometric="minisblack", subfiletype=4)
    files = find_images(tmp_path, parts=True)
    assert [file.part for file in files] == ["page=0", "page=3"]
    assert np.array_equal(decode(files[1].read(), 3), picture(9))


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_a_map_with_a_mask_and_overviews_is_cut_into_windows(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "a.tif"
    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, "w", driver="GTiff", width=64, height=64, count=1, dtype="uint16", tiled=True,
            blockxsize=16, blockysize=16,
        ) as made,
    ):  # fmt: skip
        made.write(values, 1)
        made.write_mask(np.mgrid[0:64, 0:64][1] < 32)
        made.build_overviews([2, 4], rasterio.enums.Resampling.nearest)
    assert [file.part for file in find_images(tmp_path, parts=True)] == [None]
    files = find_images(tmp_path, parts=True, tile=32)
    assert [file.part for file in files] == ["window=0,0,32,32", "window=32,0,32,32"]


def test_a_header_that_tells_more_frames_than_bytes_lists_one_image(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")
    pydicom = pytest.importorskip("pydicom")
    from tests import dicom_files

    values = np.zeros((1, 8, 8), np.uint16)
    data = dicom_files.grey(
        values, pydicom.uid.ExplicitVRLittleEndian, NumberOfFrames=2_000_000_000
    )
    (tmp_path / "a.dcm").write_bytes(data)
    [file] = find_images(tmp_path, parts=True)
    assert decode(file.read(), 1).shape == (8, 8, 1)
