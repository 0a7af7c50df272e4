"""A person's own images above the server's limits: every kind is read smaller, and boxes still fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from jepack.decoding import decode, read_raw
from jepack.errors import DataError
from jepack.sources import ImageFile, find_images

pytestmark = pytest.mark.usefixtures("small_limits")
HEIGHT, WIDTH = (
    140,
    100,
)  # above the 10,000 pixels that the server takes here; read at half its size
BOX = (20.0, 60.0, 40.0, 50.0)  # left, top, width, height


def ramp(channels: int = 0, top: int = 200, kind: Any = np.uint8) -> Any:
    y, x = np.mgrid[0:1:140j, 0:1:100j]
    planes = [top * (x + y) / 2, top * (1 - x), top * y, top * (1 - y), top * x * y]
    if not channels:
        return np.rint(planes[0]).astype(kind)
    return np.rint(np.stack(planes[:channels], axis=-1)).astype(kind)


def halved(pixels: Any) -> Any:
    return pixels.reshape(HEIGHT // 2, 2, WIDTH // 2, 2, -1).mean(axis=(1, 3))


def check_box(file: ImageFile) -> None:
    """The pixels of the box are those of the same place in the whole picture: a ramp tells its place."""
    from training.data import decode_file

    found = decode_file(replace(file, box=BOX), 1000, 3, None)
    left, top, width, height = BOX
    scale = found.pixels.shape[0] / HEIGHT
    assert scale < 1
    assert np.allclose(found.box, np.array([top, left, height, width]) * scale, atol=1)


def dicom_kinds() -> dict[str, Callable[[], bytes]]:
    pytest.importorskip("pydicom")
    pytest.importorskip("imagecodecs")
    from pydicom import uid

    from tests import dicom_files as files

    deep = np.stack([ramp(top=4000, kind=np.uint16), ramp(top=3000, kind=np.uint16)])
    coloured = np.stack([ramp(3), ramp(3)[::-1]])
    shown = {"WindowCenter": 1500, "WindowWidth": 2500, "RescaleSlope": 2, "RescaleIntercept": -100}

    def indexed() -> bytes:
        table = np.arange(256, dtype=np.uint8)[::-1]
        tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
        for colour in ("Red", "Green", "Blue"):
            tags[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 8]
            tags[f"{colour}PaletteColorLookupTableData"] = table.tobytes()
        return files.grey(ramp()[None], uid.ExplicitVRLittleEndian, bits=8, **tags)

    def grey(syntax: Any, **tags: Any) -> Callable[[], bytes]:
        return lambda: files.grey(deep, syntax, bits=12, **tags)

    return {
        "plain": grey(uid.ExplicitVRLittleEndian, **shown),
        "white": grey(uid.ImplicitVRLittleEndian, PhotometricInterpretation="MONOCHROME1", **shown),
        "big-endian": grey(uid.ExplicitVRBigEndian, **shown),
        "deflated": grey(uid.DeflatedExplicitVRLittleEndian, **shown),
        "j2k": grey(uid.JPEG2000Lossless, **shown),
        "jpeg-ls": grey(uid.JPEGLSLossless),
        "rle colour": lambda: files.coloured(coloured, uid.RLELossless, "RGB"),
        "planes": lambda: files.coloured(coloured, uid.ExplicitVRLittleEndian, "RGB", planar=1),
        "ybr": lambda: files.coloured(coloured, uid.ExplicitVRLittleEndian, "YBR_FULL"),
        "jpeg": lambda: files.coloured(coloured, uid.JPEGBaseline8Bit, "YBR_FULL"),
        "palette": indexed,
    }


@pytest.mark.parametrize("kind", [
    "plain", "white", "big-endian", "deflated", "j2k", "jpeg-ls", "rle colour", "planes", "ybr", "jpeg",
    "palette",
])  # fmt: skip
def test_dicom_is_read_smaller_and_means_the_same(kind: str, tmp_path: Path) -> None:
    from jepack.decoding import OWN, Frames, to_eight_bits

    path = tmp_path / "a.dcm"
    path.write_bytes(dicom_kinds()[kind]())
    whole = Frames(path, OWN)
    files = find_images(tmp_path, parts=True)
    assert len(files) == whole.count
    for number, file in enumerate(files):
        expected = halved(to_eight_bits(whole.raw(number), None))
        found = decode(file.read(), 1 if expected.shape[2] == 1 else 3)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= (6 if kind == "jpeg" else 2)
        check_box(file)
        window = ((100.0, 180.0),) if "colour" in kind else ((0.0, 4000.0),)
        decode(file.read(), 3, window)  # in the file's own units: nothing is refused


@pytest.mark.parametrize("packed", [False, True])
def test_fits_is_read_smaller(packed: bool, tmp_path: Path) -> None:
    fits = pytest.importorskip("astropy.io.fits")
    values = ramp(top=4000, kind=np.int16)
    unit = fits.CompImageHDU(values) if packed else fits.PrimaryHDU(values)
    unit.writeto(tmp_path / "a.fits")
    [file] = find_images(tmp_path)
    assert np.abs(read_raw(file.read()).values - halved(values)).max() <= 1
    check_box_under_window(file)


def check_box_under_window(file: ImageFile) -> None:
    from training.data import decode_file

    found = decode_file(replace(file, box=BOX), 1000, 1, ((0.0, 4000.0),))
    assert found.pixels.shape[0] == HEIGHT // 2
    assert found.box == [30, 10, 25, 20]


@pytest.mark.skipif(not features.check("jpg_2000"), reason="Pillow without JPEG 2000")
def test_deep_jpeg_2000_keeps_its_units_when_it_is_read_smaller(tmp_path: Path) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    pytest.importorskip("tifffile")
    values = ramp(top=4000, kind=np.uint16)
    data = imagecodecs.jpeg2k_encode(values, level=0, bitspersample=12, reversible=True)
    (tmp_path / "a.jp2").write_bytes(data)
    raw = read_raw(ImageFile(tmp_path / "a.jp2").read())
    assert np.abs(raw.values - halved(values)).max() <= 1
    # Without a window the high byte of 12 bits is shown, as it is of a small file.
    shown = decode(ImageFile(tmp_path / "a.jp2").read(), 1)
    assert np.abs(shown - halved(values) / 16).max() <= 1


def test_a_deep_png_is_read_smaller(tmp_path: Path) -> None:
    values = ramp(top=60000, kind=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    [file] = find_images(tmp_path)
    assert np.abs(read_raw(file.read()).values - halved(values)).max() <= 1
    check_box(file)


@pytest.mark.parametrize(
    "kind", ["page", "turned page", "channels on pages", "npy", "five channels"]
)
def test_boxes_fit_what_is_read_smaller(kind: str, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    picture = ramp(3)
    path = tmp_path / "a.tif"
    channels = 3
    if kind == "npy":
        np.save(tmp_path / "a.npy", picture)
    elif kind == "page":
        tifffile.imwrite(path, np.stack([picture] * 3), photometric="rgb")
    elif kind == "turned page":
        pages = [Image.fromarray(np.rot90(picture)) for _ in range(2)]
        pages[0].save(path, save_all=True, append_images=pages[1:], tiffinfo={274: 6})
    elif kind == "five channels":
        channels = 5
        tifffile.imwrite(
            path, ramp(5), photometric="minisblack", planarconfig="contig", compression="zlib"
        )
    else:
        stack = np.moveaxis(picture, 2, 0)
        tifffile.imwrite(path, np.stack([stack, stack]), imagej=True, metadata={"axes": "TCYX"})
    for file in find_images(tmp_path, parts=True):
        if channels == 3:
            check_box(file)
            continue
        from training.data import decode_file

        assert decode_file(replace(file, box=BOX), 1000, 5, None).box == [30, 10, 25, 20]


def test_a_box_and_a_mask_of_a_map_are_those_of_its_windows(tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    from training.data import decode_file

    Image.fromarray(ramp(3)).save(tmp_path / "map.tif")
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[60:110, 20:60] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    (tmp_path / "list.csv").write_text("path,box,mask\nmap.tif,20 60 40 50,mask.png\n")
    notes: list[str] = []
    files = find_images(tmp_path / "list.csv", parts=True, tile=50, notes=notes)
    # Windows that the box does not meet hold nothing that matters.
    assert {file.part: file.box for file in files} == {
        "window=50,0,50,50": (20.0, 10.0, 30.0, 40.0),
        "window=50,50,50,50": (0.0, 10.0, 10.0, 40.0),
        "window=90,0,50,50": (20.0, 0.0, 30.0, 20.0),
        "window=90,50,50,50": (0.0, 0.0, 10.0, 20.0),
    }
    assert any("2 windows lie outside the box" in note for note in notes)
    for file in files:
        found = decode_file(file, 1000, 3, None)
        assert file.box is not None
        assert found.mask is not None
        share = math.prod(file.box[2:]) / 2500
        assert abs(found.mask.mean() / 255 - share) < 0.05


def test_what_is_above_the_limit_for_own_images_is_refused_from_its_header(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    from pydicom import uid

    from tests import dicom_files as files

    data = files.grey(np.zeros((1, 8, 8), np.uint16), uid.JPEG2000Lossless, bits=12)
    rows = b"\x28\x00\x10\x00US\x02\x00\x08\x00"
    assert rows in data
    columns = rows.replace(b"\x10", b"\x11")
    for element in (rows, columns):
        data = data.replace(element, element[:-2] + b"\xff\xff")
    (tmp_path / "a.dcm").write_bytes(data)
    with pytest.raises(DataError, match="65535 x 65535 pixels .* the limit is 179 megapixels"):
        ImageFile(tmp_path / "a.dcm").read()
