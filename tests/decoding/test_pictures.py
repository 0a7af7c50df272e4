"""Pictures as cameras, phones and satellites write them: odd notes, odd shapes, large, and newer formats."""

from __future__ import annotations

import dataclasses
import io
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, features

from jepack.decoding import Preprocessing, crop, decode, load, read_raw
from jepack.errors import AxisError, DataError, DependencyError
from jepack.sources import ImageFile, find_images


def picture(height: int = 40, width: int = 80, channels: int = 3) -> Any:
    y, x = np.mgrid[:height, :width]
    planes = [(3 * x + (2 + c) * y) % 251 for c in range(channels)]
    return np.stack(planes, axis=-1).astype(np.uint8)


def saved(array: Any, kind: str, **how: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(stream, kind, **how)
    return stream.getvalue()


def exif(tag: int, kind: int, value: bytes) -> bytes:
    """An EXIF block that says "turned" and has one more entry, which need not make sense."""
    entries = [(0x0112, 3, 1, struct.pack("<H", 6)), (tag, kind, 1, value)]
    data, table = b"", struct.pack("<H", 2)
    for number, type_, count, entry in entries:
        place = entry.ljust(4, b"\0")
        if len(entry) > 4:
            place, data = struct.pack("<I", 38 + len(data)), data + entry
        table += struct.pack("<HHI", number, type_, count) + place
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + table + struct.pack("<I", 0) + data


@pytest.mark.parametrize(
    ("tag", "kind", "value"),
    [
        (0x0100, 2, b"4000\0"), (0x0100, 5, struct.pack("<II", 40, 1)), (0x0128, 8, struct.pack("<h", -1)),
        (0x011A, 10, struct.pack("<ii", -1, 0)), (0x0213, 9, struct.pack("<i", -5)),
    ],
)  # fmt: skip
def test_odd_exif_turns_a_picture_and_refuses_nothing(tag: int, kind: int, value: bytes) -> None:
    sound, odd = (
        saved(picture(), "JPEG", quality=95, exif=block)
        for block in (exif(0x0128, 3, struct.pack("<H", 2)), exif(tag, kind, value))
    )
    assert decode(odd, 3).shape == (80, 40, 3)
    assert np.array_equal(decode(odd, 3), decode(sound, 3))


def test_long_notes_and_profiles_of_a_png_refuse_nothing() -> None:
    for name in ("text", "xmp", "profile"):
        info = PngImagePlugin.PngInfo()
        if name == "text":
            info.add_text("log", "a" * (2 << 20), zip=True)
        if name == "xmp":
            info.add_itxt("XML:com.adobe.xmp", "a" * (2 << 20), zip=True)
        how = {"icc_profile": bytes(3 << 20)} if name == "profile" else {"pnginfo": info}
        assert np.array_equal(decode(saved(picture(), "PNG", **how), 3), picture())


def test_notes_of_a_jpeg_that_break_its_parser_are_left_out() -> None:
    whole = saved(picture(), "JPEG", quality=95, exif=exif(0x0128, 3, struct.pack("<H", 2)))
    broken = whole[:2] + b"\xff\xed\x00\x12Photoshop 3.0\x00\x388BIM"[:20] + whole[2:]
    pair = io.BytesIO()
    Image.fromarray(picture()).save(
        pair, "MPO", save_all=True, append_images=[Image.fromarray(picture())], quality=95
    )
    plain = decode(saved(picture(), "JPEG", quality=95), 3)
    assert np.array_equal(decode(pair.getvalue(), 3), plain)
    assert np.array_equal(
        decode(pair.getvalue()[:-700], 3), plain
    )  # the second picture is cut short
    assert decode(broken, 3).shape == (80, 40, 3)


@pytest.mark.parametrize("kind", ["JPEG2000", "AVIF"])
def test_newer_formats_give_what_pillow_reads(kind: str) -> None:
    if not features.check({"JPEG2000": "jpg_2000", "AVIF": "avif"}[kind]):
        pytest.skip(f"this Pillow has no {kind}")
    data = saved(picture(64, 64), kind)
    assert np.array_equal(decode(data, 3), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("bits", [10, 12, 15, 16])
def test_deep_jpeg_2000_holds_the_values_that_were_written(bits: int) -> None:
    codecs = pytest.importorskip("imagecodecs")
    values = (np.arange(4096).reshape(64, 64) * ((1 << bits) - 1) // 4095).astype(np.uint16)
    data = codecs.jpeg2k_encode(values, bitspersample=bits, reversible=True, level=0)
    assert np.array_equal(read_raw(data).values[..., 0], values)
    assert np.array_equal(decode(data, 1)[..., 0], values >> (bits - 8))
    shown = decode(data, 1, ((0.0, float((1 << bits) - 1)),))[..., 0]
    assert np.array_equal(shown, np.rint(values / ((1 << bits) - 1) * 255))


def test_heic_is_read_by_its_extra_or_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    head = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(DependencyError, match=r"pillow_heif.*pip install 'jepack\[heic\]'"):
        decode(head + bytes(100), 3)
    monkeypatch.undo()
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    data = saved(picture(64, 64), "HEIF", quality=-1)
    assert np.array_equal(decode(data, 3), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize(
    ("start", "name"), [(b"8BPS", "Photoshop"), (b"%PDF-1.7", "PDF"), (b"\xff\x0a", "JPEG XL")]
)
def test_a_file_of_another_kind_is_named(start: bytes, name: str) -> None:
    with pytest.raises(DataError, match=f"{name}.*not an image of a known format"):
        decode(start + bytes(50), 3)


SETTINGS = Preprocessing(size=64, channels=1, mean=(0.5,), std=(0.2,), crop_pct=0.9)


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (3, 9000), (2, 4001)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
def test_a_strip_cut_before_it_is_enlarged_is_the_strip_enlarged_and_cut(
    shape: tuple[int, int], interpolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from jepack.decoding import cropping

    values = np.random.default_rng(0).integers(0, 256, (*shape, 1)).astype(np.uint8)
    settings = replace(SETTINGS, interpolation=interpolation)
    whole = crop(values, settings)
    monkeypatch.setattr(cropping, "MAX_PIXELS", 1000)
    # Pillow keeps the box in 32 bits, so that single levels may round the other way.
    assert np.abs(crop(values, settings).astype(int) - whole).max() <= 1


def test_a_strip_takes_no_more_than_itself_and_its_crop() -> None:
    import tracemalloc

    stream = io.BytesIO()
    Image.new("L", (2_000_000, 1), 128).save(stream, "PNG")
    tracemalloc.start()
    found = load(stream.getvalue(), SETTINGS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found == 128).all()
    assert peak < 20_000_000


def test_what_an_image_exhausts_is_its_own_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    from jepack.decoding import preprocess

    def exhausted(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(preprocess, "crop", exhausted)
    with pytest.raises(DataError, match="more memory than there is"):
        load(saved(picture(), "PNG"), Preprocessing(size=32))


def test_the_axis_of_channels_is_asked_for_where_the_shape_does_not_tell() -> None:
    cube = np.random.default_rng(0).integers(0, 255, (32, 30, 200)).astype(np.uint8)

    def npy(values: Any) -> bytes:
        stream = io.BytesIO()
        np.save(stream, values)
        return stream.getvalue()

    with pytest.raises(AxisError, match="200 channels of 30 x 32 px.*--set channels=200"):
        read_raw(npy(cube))
    assert np.array_equal(read_raw(npy(cube), 200).values, cube)
    assert np.array_equal(decode(npy(cube), 200), cube)
    assert np.array_equal(decode(npy(np.moveaxis(cube, 2, 0)), 200), cube)
    for shape, found in {(20, 1, 3): 3, (1, 20, 3): 3, (64, 64, 40): 40, (13, 64, 64): 13}.items():
        assert read_raw(npy(np.zeros(shape, np.uint8))).values.shape[2] == found


@pytest.mark.usefixtures("small_limits")
def test_own_pictures_above_the_servers_limit_are_read_smaller_by_the_same_pixels(
    tmp_path: Path,
) -> None:
    from training.data import decode_file

    y, x = np.mgrid[:100, :140]
    large = np.stack([x + y, 240 - x, 20 + 2 * y], axis=-1).astype(np.uint8)
    for name, kind in {"a.jpg": "JPEG", "b.png": "PNG", "c.tif": "TIFF", "d.bmp": "BMP"}.items():
        (tmp_path / name).write_bytes(saved(large, kind))
        with pytest.raises(DataError, match="the limit is"):
            decode((tmp_path / name).read_bytes(), 3)
    np.save(tmp_path / "e.npy", large)
    for file in find_images(tmp_path):
        posted = decode(file.read(), 3)
        assert posted.shape[0] * posted.shape[1] <= 6_000
        kept = decode_file(ImageFile(file.path, box=(20.0, 10.0, 80.0, 50.0)), 1000, 3, None)
        assert np.array_equal(kept.pixels, posted)
        assert kept.box is not None
        scale = posted.shape[0] / 100
        assert np.allclose(kept.box, np.array([10, 20, 50, 80]) * scale, atol=1)
        means = large[: 100 // 2 * 2, : 140 // 2 * 2].reshape(50, 2, 70, 2, 3).mean(axis=(1, 3))
        if posted.shape == means.shape:
            assert np.abs(posted - means).mean() < 3


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("kind", ["tar", "parquet", "npy", "h5"])
def test_large_pictures_inside_a_file_are_read_smaller_as_files_of_their_own_are(
    kind: str, tmp_path: Path
) -> None:
    from training.data import decode_file

    y, x = np.mgrid[:100, :140]
    large = np.stack([x + y, 240 - x, 20 + 2 * y], axis=-1).astype(np.uint8)
    data = saved(large, "PNG")
    path, alone = tmp_path / f"a.{kind}", tmp_path / "alone.png"
    alone.write_bytes(data)
    if kind == "tar":
        with tarfile.open(path, "w") as archive:
            archive.add(alone, "alone.png")
    elif kind == "parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.table({"image": [data]}), path)
    elif kind == "npy":
        np.save(path, large[None])
    else:
        with pytest.importorskip("h5py").File(path, "w") as file:
            file["x"] = large[None]
    [inside] = find_images(path, parts=True)
    assert np.array_equal(decode(inside.read(), 3), decode(ImageFile(alone).read(), 3))
    boxed = dataclasses.replace(inside, box=(20.0, 10.0, 80.0, 50.0))
    expected = decode_file(ImageFile(alone, box=boxed.box), 1000, 3, None)
    assert decode_file(boxed, 1000, 3, None).box == expected.box


@pytest.mark.usefixtures("small_limits")
def test_deep_values_above_the_limit_are_averaged_without_what_was_not_measured(
    tmp_path: Path,
) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = np.full((100, 140), 1000, np.uint16)
    values[:, 71:] = 7
    tag = [(42113, "s", 0, "7", True)]
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", extratags=tag)
    raw = read_raw(ImageFile(tmp_path / "a.tif").read())
    assert raw.values.shape[0] < 100
    assert set(np.unique(raw.values)) == {7, 1000}


def test_fits_tells_its_size_before_it_is_unpacked() -> None:
    fits = pytest.importorskip("astropy.io.fits")
    import tracemalloc

    stream = io.BytesIO()
    unit = fits.CompImageHDU(np.zeros((64, 64), np.int16), compression_type="GZIP_1")
    fits.HDUList([fits.PrimaryHDU(), unit]).writeto(stream)
    data = stream.getvalue()
    assert read_raw(data).values.shape == (64, 64, 1)
    for name, size in (("ZNAXIS1", 64_000_000), ("ZTILE1", 640_000_000)):
        old, new = (f"{name:8}= {number:>20}".encode() for number in (64, size))
        assert old in data
        tracemalloc.start()
        with pytest.raises(DataError, match="limit"):
            read_raw(data.replace(old, new))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 30_000_000


def test_a_refusal_names_the_file_and_of_bytes_the_reason_alone(tmp_path: Path) -> None:
    """Who sent the bytes knows what they are called, and says so once."""
    torn = saved(picture(), "JPEG")[:-400]
    (tmp_path / "torn.jpg").write_bytes(torn)
    for read in (lambda it: decode(it, 3), lambda it: read_raw(it)):
        with pytest.raises(DataError, match="^image file is truncated"):
            read(torn)
        with pytest.raises(DataError, match=r"torn\.jpg: image file is truncated"):
            read(tmp_path / "torn.jpg")
