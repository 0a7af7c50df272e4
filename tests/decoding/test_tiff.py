"""TIFF as people have it: what the tags say of the values holds for files, pages and windows alike."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jepack.decoding import decode, read_raw
from jepack.errors import DataError
from jepack.sources import find_images

tifffile = pytest.importorskip("tifffile")
WINDOW = ((1000.0, 30000.0),)
NODATA = 42113


def values(shape: tuple[int, ...], kind: str = "uint8") -> Any:
    top = 256 if kind == "uint8" else 40000
    return np.random.default_rng(1).integers(0, top, shape).astype(kind)


def tiff(array: Any, **how: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **how)
    return stream.getvalue()


def nodata(value: str) -> dict[str, Any]:
    return {"extratags": [(NODATA, "s", 0, value, True)]}


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@pytest.mark.parametrize(
    ("bands", "how", "channels"),
    [
        (4, {"photometric": "rgb", "extrasamples": ["unspecified"]}, 4),
        (4, {"photometric": "rgb", "extrasamples": ["unassalpha"]}, 3),
        (4, {"photometric": "rgb", "extrasamples": ["assocalpha"]}, 3),
        (5, {"photometric": "rgb", "extrasamples": ["unspecified"] * 2}, 5),
        (5, {"photometric": "rgb", "extrasamples": ["unspecified", "unassalpha"]}, 4),
        (2, {"photometric": "minisblack", "extrasamples": ["unspecified"]}, 2),
        (2, {"photometric": "minisblack", "extrasamples": ["unassalpha"]}, 1),
        (4, {"photometric": "separated"}, 3),
    ],
)
def test_a_sample_is_transparency_only_where_the_file_says_so(
    kind: str, bands: int, how: dict[str, Any], channels: int
) -> None:
    array = values((12, 14, bands), kind)
    data = tiff(array, planarconfig="contig", **how)
    found = read_raw(data)
    assert found.values.shape == (12, 14, channels)
    if channels == bands:
        assert np.array_equal(found.values, array)
    # An encoder of as many channels as there are samples gets them as they lie.
    asked = decode(data, bands, ((0.0, 65535.0),)) if bands not in (1, 3) else None
    if asked is not None and kind == "uint16":
        assert np.array_equal(asked, np.rint(array / 65535 * 255))


def test_an_encoder_of_three_channels_takes_red_green_and_blue_of_more() -> None:
    for kind in ("uint8", "uint16"):
        array = values((9, 9, 5), kind)
        data = tiff(array, photometric="rgb", extrasamples=["unspecified"] * 2)
        expected = array[..., :3] if kind == "uint8" else array[..., :3] >> 8
        assert np.array_equal(decode(data, 3), expected)
        shown = decode(data, 3, ((0.0, 40000.0),) * 3)
        assert np.abs(shown - array[..., :3] / 40000 * 255).max() <= 0.5


def test_min_is_white_is_turned_at_any_depth_and_windows_stay_in_the_files_units() -> None:
    for kind in ("uint8", "uint16"):
        array = values((9, 9), kind)
        black, white = (tiff(array, photometric=f"minis{end}") for end in ("black", "white"))
        assert np.array_equal(decode(white, 1), 255 - decode(black, 1))
        for window in (((0.0, 200.0),), WINDOW):
            assert np.array_equal(decode(white, 1, window), 255 - decode(black, 1, window))
        assert np.array_equal(read_raw(white).values[..., 0], array)


def test_transparency_and_inks_of_16_bits_under_a_window_are_those_of_8_bits() -> None:
    array = values((12, 14, 4))
    deep = array.astype(np.uint16) * 257
    for how in (
        {"photometric": "rgb", "extrasamples": ["unassalpha"]},
        {"photometric": "separated"},
    ):
        plain = decode(tiff(array, **how), 3).astype(int)
        windowed = decode(tiff(deep, **how), 3, ((0.0, 65535.0),)).astype(int)
        assert np.abs(plain - windowed).max() <= 1
        assert np.abs(decode(tiff(deep, **how), 3).astype(int) - plain).max() <= 1


def palette() -> Any:
    return values((3, 256), "uint16") // 257 * 257


PAGES: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "grey": ("uint8", (20, 24), {"photometric": "minisblack"}),
    "deep": ("uint16", (20, 24), {"photometric": "minisblack"}),
    "signed": ("int16", (20, 24), {"photometric": "minisblack"}),
    "float": ("float32", (20, 24), {"photometric": "minisblack", **nodata("7")}),
    "min is white": ("uint8", (20, 24), {"photometric": "miniswhite"}),
    "deep min is white": ("uint16", (20, 24), {"photometric": "miniswhite"}),
    "palette": ("uint8", (20, 24), {"photometric": "palette", "colormap": palette()}),
    "colour": ("uint8", (20, 24, 3), {"photometric": "rgb"}),
    "deep colour": ("uint16", (20, 24, 3), {"photometric": "rgb"}),
    "inks": ("uint8", (20, 24, 4), {"photometric": "separated"}),
    "deep inks": ("uint16", (20, 24, 4), {"photometric": "separated"}),
    "alpha": ("uint8", (20, 24, 4), {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
    "deep alpha": ("uint16", (20, 24, 4), {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
    "infrared": ("uint8", (20, 24, 4), {"photometric": "rgb", "extrasamples": ["unspecified"]}),
    "nodata": ("uint16", (20, 24), {"photometric": "minisblack", **nodata("7")}),
    "planes": ("uint16", (5, 20, 24), {"photometric": "minisblack", "planarconfig": "separate"}),
    "cube": ("uint16", (20, 24, 200), {"photometric": "minisblack", "planarconfig": "contig"}),
    "JPEG": ("uint8", (20, 24, 3), {"photometric": "ycbcr", "compression": "jpeg"}),
}  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_a_stack_is_decoded_as_a_file_of_its_own(name: str, tmp_path: Path) -> None:
    if name == "JPEG":
        pytest.importorskip("imagecodecs")
    kind, shape, how = PAGES[name]
    array = values(shape, kind)
    array.flat[::11] = 7
    with tifffile.TiffWriter(tmp_path / "stack.tif") as writer:
        for page in (array[::-1], array):
            writer.write(page, metadata=None, **how)
    (tmp_path / "one").mkdir()
    tifffile.imwrite(tmp_path / "one" / "a.tif", array, metadata=None, **how)
    whole = (tmp_path / "one" / "a.tif").read_bytes()
    page = next(f for f in find_images(tmp_path, parts=True) if f.part == "page=1").read()
    raw, other = read_raw(whole), read_raw(page)
    assert np.array_equal(raw.measured, other.measured, equal_nan=raw.measured.dtype.kind == "f")
    channels = raw.values.shape[2]
    for window in (None, WINDOW, ((0.0, 200.0),)):
        if window is None and kind in ("int16", "float32"):
            continue
        assert np.array_equal(decode(page, channels, window), decode(whole, channels, window))


@pytest.mark.parametrize(
    "name", ["palette", "min is white", "deep min is white", "nodata", "alpha"]
)
def test_a_window_of_a_map_is_decoded_as_the_whole_file_is(name: str, tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    kind, shape, how = PAGES[name]
    array = values(shape, kind)
    array.flat[::11] = 7
    if name == "palette":  # GDAL keeps the high byte
        how = {**how, "colormap": palette() // 256 * 256}
    tifffile.imwrite(tmp_path / "map.tif", array, metadata=None, **how)
    whole = (tmp_path / "map.tif").read_bytes()
    windows = [file.read() for file in find_images(tmp_path, parts=True, tile=12)]
    channels = read_raw(whole).values.shape[2]
    for window in (None, WINDOW):
        expected = decode(whole, channels, window)
        assert np.array_equal(decode(windows[0], channels, window), expected[:12, :12])


@pytest.mark.parametrize("how", [{"imagej": True}, {"ome": True}])
@pytest.mark.parametrize("contiguous", [True, False])
def test_channels_on_pages_are_channels_and_time_and_depth_are_images(
    how: dict[str, Any], contiguous: bool, tmp_path: Path
) -> None:
    stack = values((3, 2, 5, 20, 24), "uint16")  # T, Z, C, Y, X
    packed = {} if contiguous or "imagej" in how else {"compression": "zlib"}
    tifffile.imwrite(tmp_path / "a.tif", stack, metadata={"axes": "TZCYX"}, **how, **packed)
    found = find_images(tmp_path, parts=True)
    assert [file.part for file in found] == [f"image={n}" for n in range(6)]
    for number, file in enumerate(found):
        expected = np.moveaxis(stack.reshape(6, 5, 20, 24)[number], 0, 2)
        assert np.array_equal(read_raw(file.read()).values, expected)
    (tmp_path / "a.tif").unlink()
    tifffile.imwrite(tmp_path / "b.tif", stack[0, 0], metadata={"axes": "CYX"}, **how, **packed)
    [file] = find_images(tmp_path, parts=True)
    assert np.array_equal(read_raw(file.read()).values, np.moveaxis(stack[0, 0], 0, 2))


@pytest.mark.parametrize(
    ("kind", "told", "value"), [("float32", "-9999", -9999), ("int16", "-32768", -32768)]
)
def test_nodata_of_a_whole_map_is_zero_under_a_window_and_not_measured(
    kind: str, told: str, value: float, tmp_path: Path
) -> None:
    from training.data import measure_window

    ground = (np.arange(400).reshape(20, 20) + 100).astype(kind)
    array = ground.copy()
    array[:5] = value
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", **nodata(told))
    files = find_images(tmp_path)
    window = measure_window(files, "p0,p100", 1)
    assert window == ((200.0, 499.0),)
    shown = decode(files[0].read(), 1, window)[..., 0]
    assert shown[:5].max() == 0
    assert np.array_equal(shown[5:], np.rint((ground[5:] - 200.0) / 299 * 255))
    with pytest.raises(DataError, match="--window"):
        decode(files[0].read(), 1)


def test_nodata_that_the_type_cannot_hold_is_nowhere() -> None:
    data = tiff(values((9, 9)), photometric="minisblack", **nodata("-9999"))
    assert read_raw(data).missing is None
    whole = tiff(values((9, 9)), photometric="minisblack", **nodata("0"))
    assert np.array_equal(decode(whole, 1)[..., 0], values((9, 9)))  # 8 bits as they are


def bomb(payload: bytes, compression: int, *, side: int = 64, tile: int = 0) -> bytes:
    """A TIFF of side x side px whose one strip or tile is `payload`."""
    where, place = [(273, 4), (278, 4), (279, 4)], [None, side, len(payload)]
    if tile:
        where, place = [(322, 4), (323, 4), (324, 4), (325, 4)], [tile, tile, None, len(payload)]
    head = [(256, 4), (257, 4), (258, 3), (259, 3), (262, 3), (277, 3)]
    told = sorted(
        zip([*head, *where], [side, side, 8, compression, 1, 1, *place], strict=True),
        key=lambda entry: entry[0],
    )
    start = 8 + 2 + 12 * len(told) + 4
    data = b"II*\0" + struct.pack("<IH", 8, len(told))
    for (code, kind), value in told:
        number = start if value is None else value
        data += struct.pack("<HHI", code, kind, 1) + struct.pack("<I", number)
    return data + struct.pack("<I", 0) + payload


def test_a_strip_or_tile_that_unpacks_to_more_than_the_page_is_refused_before() -> None:
    import tracemalloc

    codecs = pytest.importorskip("imagecodecs")
    stream = io.BytesIO()
    Image.new("L", (9000, 9000)).save(stream, "JPEG")
    inner = codecs.jpeg2k_encode(np.zeros((4000, 4000), np.uint8), level=0, reversible=True)
    files = [
        bomb(stream.getvalue(), 7), bomb(inner, 34712), bomb(zlib.compress(bytes(1000)), 8, tile=50_000),
        bomb(zlib.compress(b"\0"), 8, side=60_000),
    ]  # fmt: skip
    tracemalloc.start()
    for data in files:
        for window in (None, ((0.0, 1.0),)):
            with pytest.raises(DataError, match="px|limit"):
                decode(data, 1, window)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000
