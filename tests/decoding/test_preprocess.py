"""Decoding: every depth and format the same way at training and when served, and refusals with a reason."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jepack.decoding import Preprocessing, crop, decode, load, read_raw
from jepack.errors import ConfigError, DataError, DependencyError


def deep(shape: tuple[int, ...] = (30, 40), top: int = 65536) -> Any:
    return np.random.default_rng(0).integers(0, top, shape, dtype=np.uint16)


def saved(values: Any, kind: str) -> bytes:
    """The array as a file of a kind, written by that kind's own library."""
    stream = io.BytesIO()
    if kind == "npy":
        np.save(stream, values)
    elif kind == "tiff":
        pytest.importorskip("tifffile").imwrite(stream, values)
    elif kind == "fits":
        pytest.importorskip("astropy.io.fits").PrimaryHDU(values).writeto(stream)
    elif kind == "dicom":
        dicom(values).save_as(stream, enforce_file_format=True)
    else:
        Image.fromarray(values).save(stream, kind)
    return stream.getvalue()


def dicom(values: Any, **tags: Any) -> Any:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.Rows, dataset.Columns = values.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = values.tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


KINDS = ["npy", "PNG", "TIFF", "tiff", "fits", "dicom"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_pixels_under_a_window(kind: str) -> None:
    values = deep()
    found = decode(saved(values, kind), 1, ((1000.0, 30000.0),))
    expected = np.rint(np.clip((values.astype(float) - 1000) / 29000, 0, 1) * 255)
    assert np.array_equal(found[..., 0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_raw_values_are_those_of_the_file(kind: str) -> None:
    values = deep()
    assert np.array_equal(read_raw(saved(values, kind)).values[..., 0], values)


def test_a_file_and_its_bytes_give_the_same_crop(tmp_path: Path) -> None:
    settings = Preprocessing(size=24, channels=1, mean=(0.5,), std=(0.2,), window=((0, 4095),))
    for kind in KINDS:
        path = tmp_path / f"a.{kind}"
        path.write_bytes(saved(deep(top=4096), kind))
        assert np.array_equal(load(path, settings), load(path.read_bytes(), settings))


@pytest.mark.parametrize("shape", [(30, 40, 5), (5, 30, 40)])
@pytest.mark.parametrize("kind", ["npy", "tiff"])
def test_any_number_of_channels_in_either_order(shape: tuple[int, ...], kind: str) -> None:
    values = deep(shape)
    found = decode(saved(values, kind), 5, ((0.0, 65535.0),) * 5)
    expected = values if shape[2] == 5 else np.moveaxis(values, 0, 2)
    assert np.array_equal(found, np.rint(expected / 65535 * 255))
    settings = Preprocessing(size=16, channels=5, mean=(0.5,) * 5, std=(0.2,) * 5, window=None)
    assert load(saved(values, kind), settings).shape == (16, 16, 5)


def test_each_channel_can_have_its_own_window() -> None:
    values = np.stack([np.full((9, 9), v, np.float32) for v in (-5.0, 0.5, 900.0)], axis=-1)
    found = decode(saved(values, "npy"), 3, ((-10.0, 0.0), (0.0, 1.0), (0.0, 1000.0)))
    assert found[0, 0].tolist() == [128, 128, 230]


def test_pixels_without_data_become_zero_under_a_window_and_are_refused_without() -> None:
    values = np.ones((8, 8), np.float32)
    values[0, 0] = np.nan
    assert decode(saved(values, "npy"), 1, ((0.0, 1.0),))[0, :2, 0].tolist() == [0, 255]
    with pytest.raises(DataError, match="NaN or infinity, which a window shows as 0"):
        decode(saved(values, "npy"), 1)


def test_dicom_rescale_window_and_photometric_interpretation() -> None:
    values = np.array([[0, 1000, 2000]], np.uint16)
    tags = {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": 1000, "WindowWidth": 2001}
    stream = io.BytesIO()
    dicom(values, **tags).save_as(stream, enforce_file_format=True)
    # -1000, 1000, 3000 units; shown from about 0 to 2000
    assert decode(stream.getvalue(), 1, "dicom")[0, :, 0].tolist() == [0, 128, 255]
    assert decode(stream.getvalue(), 1, ((-1000.0, 3000.0),))[0, :, 0].tolist() == [0, 128, 255]
    stream = io.BytesIO()
    dicom(values, **tags, PhotometricInterpretation="MONOCHROME1").save_as(
        stream, enforce_file_format=True
    )
    assert decode(stream.getvalue(), 1, "dicom")[0, :, 0].tolist() == [255, 127, 0]


def test_dicom_colours_are_those_of_its_palette() -> None:
    values = np.array([[0, 1, 2, 1]], np.uint16)
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, entries in {"Red": (9, 20, 255), "Green": (0, 77, 5), "Blue": (3, 2, 1)}.items():
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [3, 0, 16]
        table = np.array(entries, "<u2") * 257
        tags[f"{name}PaletteColorLookupTableData"] = table.astype("<u2").tobytes()
    stream = io.BytesIO()
    dicom(values, **tags).save_as(stream, enforce_file_format=True)
    found = decode(stream.getvalue(), 3)[0]
    assert found.tolist() == [[9, 0, 3], [20, 77, 2], [255, 5, 1], [20, 77, 2]]


@pytest.mark.parametrize(
    ("kind", "value"), [("int8", -5), ("int16", -9), ("int32", -7), ("uint32", 3e9)]
)
def test_values_of_a_tiff_do_not_wrap(kind: str, value: float) -> None:
    stream = io.BytesIO()
    values = np.full((6, 7), value).astype(kind)
    pytest.importorskip("tifffile").imwrite(stream, values, photometric="minisblack")
    assert (read_raw(stream.getvalue()).values == value).all()


@pytest.mark.parametrize("compression", ["lzw", "zlib", "zstd"])
def test_a_compressed_deep_tiff_is_read(compression: str) -> None:
    stream = io.BytesIO()
    values = deep((30, 40, 3))
    pytest.importorskip("imagecodecs")
    pytest.importorskip("tifffile").imwrite(
        stream, values, photometric="rgb", compression=compression
    )
    assert np.array_equal(read_raw(stream.getvalue()).values, values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((4, 4), -3, np.int16), r"spans -3..-3, need 0..65535. .*--window p1,p99"),
        (np.full((4, 4), 7.5, np.float64), r"spans 7.5..7.5; .*--window p1,p99"),
        (np.zeros((3, 4, 4, 4), np.uint8), "is not one image"),
        (np.zeros((9, 9, 4), np.uint8), "has 4 channels, the encoder takes 3"),
        (np.zeros((4, 4), np.complex64), "complex64 is not an image"),
        (np.array([[{}]], object), "is not an image"),
    ],
)
def test_arrays_without_a_fixed_meaning_are_refused_with_the_mend(values: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        decode(saved(values, "npy"), 3)


def test_a_hostile_npy_header_allocates_nothing() -> None:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f8", "fortran_order": False, "shape": (1 << 30, 1 << 30)}
    )
    with pytest.raises(DataError, match="is not an image"):
        decode(stream.getvalue(), 1)


def test_sixteen_bit_colour_png_cannot_be_windowed_and_says_so() -> None:
    cv2 = pytest.importorskip("cv2")
    data = cv2.imencode(".png", deep((8, 8, 3)))[1].tobytes()
    assert decode(data, 3).shape == (8, 8, 3)
    with pytest.raises(DataError, match="save it as TIFF or npy"):
        decode(data, 3, ((0.0, 65535.0),))


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(deep(), "dicom")
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(DependencyError, match=r"pip install 'jepack\[dicom\]'"):
        decode(data, 1)


@pytest.mark.parametrize("window", [None, "dicom", ((0.0, 4095.0),), ((0.0, 1.0),) * 3])
def test_preprocessing_survives_json(window: Any) -> None:
    settings = Preprocessing(size=32, window=window)
    assert Preprocessing.from_json(settings.to_json()) == settings


def test_preprocessing_of_a_bundle_without_a_window_is_read() -> None:
    old = Preprocessing(size=32).to_json()
    del old["window"]
    assert Preprocessing.from_json(old).window is None


@pytest.mark.parametrize("window", ["p1,p99", ((1.0, 1.0),), ((0.0, 1.0),) * 2, 3])
def test_a_window_that_cannot_be_applied_is_refused(window: Any) -> None:
    with pytest.raises(ConfigError, match="window must be"):
        Preprocessing(size=32, window=window)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (33, 33), (7, 90), (200, 41)])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
def test_every_crop_mode_is_timms_to_the_pixel(
    mode: str, shape: tuple[int, int], crop_pct: float
) -> None:
    timm_transforms = pytest.importorskip("timm.data.transforms_factory")
    mean = (0.1, 0.5, 0.9)
    settings = Preprocessing(size=32, mean=mean, crop_pct=crop_pct, crop_mode=mode)
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    theirs = timm_transforms.transforms_imagenet_eval(
        32, crop_pct=crop_pct, crop_mode=mode, interpolation="bicubic", mean=mean, normalize=False
    )
    wanted = np.asarray(theirs(Image.fromarray(pixels))).transpose(1, 2, 0)
    np.testing.assert_array_equal(crop(pixels, settings), wanted)


def test_a_centre_crop_goes_without_saying_so_that_fingerprints_stay() -> None:
    assert "crop_mode" not in Preprocessing(size=32).to_json()
    squash = Preprocessing(size=32, crop_mode="squash")
    assert Preprocessing.from_json(squash.to_json()) == squash
    with pytest.raises(ConfigError, match="crop_mode must be one of center, squash, border"):
        Preprocessing(size=32, crop_mode="stretch")
