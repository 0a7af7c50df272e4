"""DICOM files give the colours and units they mean, whatever their syntax, frame by frame."""

from __future__ import annotations

import io
import warnings
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom")
pytest.importorskip("imagecodecs")

import imagecodecs
import pydicom
from dicom_files import NATIVE, coloured, colours, deep, grey, header, packed, with_pixels, written
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from jepack.decoding import decode, read_raw
from jepack.errors import DataError, DependencyError
from jepack.sources import find_images

RLE = (uid.RLELossless,)
LOSSLESS = (
    uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless,
    uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL,
)  # fmt: skip
LOSSY = (uid.JPEGExtended12Bit, uid.JPEGLSNearLossless, uid.JPEG2000, uid.HTJ2K)
if not hasattr(imagecodecs, "htj2k_encode"):  # older ones read HTJ2K and do not write it
    LOSSLESS, LOSSY = LOSSLESS[:-2], LOSSY[:-1]
GREYS = [*NATIVE, *RLE, *LOSSLESS, *LOSSY]
COLOURS = [
    *((syntax, how, planar) for syntax in NATIVE for how in ("RGB", "YBR_FULL") for planar in (0, 1)),
    *((syntax, "YBR_FULL_422", 0) for syntax in NATIVE),
    *((uid.RLELossless, how, 1) for how in ("RGB", "YBR_FULL")),
    *((syntax, how, 0) for syntax in LOSSLESS[:3] for how in ("RGB", "YBR_FULL")),
    *((uid.JPEGBaseline8Bit, how, 0) for how in ("RGB", "YBR_FULL", "YBR_FULL_422")),
    (uid.JPEGLSNearLossless, "RGB", 0),
    (uid.JPEG2000Lossless, "YBR_RCT", 0),
    (uid.HTJ2KLossless, "YBR_RCT", 0),
    (uid.HTJ2KLosslessRPCL, "YBR_RCT", 0),
    (uid.JPEG2000, "YBR_ICT", 0),
    (uid.HTJ2K, "YBR_ICT", 0),
]  # fmt: skip
COLOURS = [one for one in COLOURS if one[0].keyword[:3] != "HTJ" or one[0] in GREYS]


def named(value: Any) -> str:
    return value.keyword if isinstance(value, uid.UID) else str(value)


def frames(data: bytes, folder: Path) -> list[bytes]:
    """What training reads of a file's frames."""
    (folder / "loop.dcm").write_bytes(data)
    return [file.read() for file in find_images(folder, parts=True)]


@pytest.mark.parametrize(("syntax", "how", "planar"), COLOURS, ids=named)
def test_frames_of_a_colour_loop_have_its_colours(
    syntax: Any, how: str, planar: int, tmp_path: Path
) -> None:
    images = colours()
    found = frames(coloured(images, syntax, how, planar), tmp_path)
    assert len(found) == 3
    # Chroma shared by two pixels and quantised; else rounding of a colour space and back.
    limit = 10 if "422" in how or syntax in LOSSY or syntax == uid.JPEGBaseline8Bit else 2
    for image, data in zip(images, found, strict=True):
        pixels = decode(data, 3)
        assert np.abs(pixels.astype(int) - image).max() <= limit
        assert np.array_equal(pixels, decode(coloured(image[None], syntax, how, planar), 3))
        assert b"Private" not in data


@pytest.mark.parametrize("how", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("syntax", GREYS, ids=named)
def test_frames_of_a_deep_loop_have_its_values(syntax: Any, how: str, tmp_path: Path) -> None:
    values = deep()
    tags: dict[str, Any] = {
        "PhotometricInterpretation": how, "RescaleSlope": 2, "RescaleIntercept": -1000,
        "WindowCenter": 3000, "WindowWidth": 4000,
    }  # fmt: skip
    found = frames(grey(values, syntax, **tags), tmp_path)
    for value, data in zip(values, found, strict=True):
        raw = read_raw(data)
        assert np.abs(raw.values[..., 0] - (2.0 * value - 1000)).max() <= (
            60 if syntax in LOSSY else 0
        )
        alone = grey(value[None], syntax, **tags)
        assert np.array_equal(raw.values, read_raw(alone).values)
        assert np.array_equal(decode(data, 1), decode(alone, 1))
        shown = np.rint((raw.values.astype(float) - raw.window[0]) / 3999 * 255).clip(0, 255)
        assert np.array_equal(decode(data, 1), 255 - shown if how == "MONOCHROME1" else shown)


@pytest.mark.parametrize("syntax", [*NATIVE, *RLE, *LOSSLESS[:4]], ids=named)
def test_signed_values_keep_their_sign(syntax: Any, tmp_path: Path) -> None:
    values = deep().astype(np.int16) - 2048
    if syntax == uid.RLELossless:
        values = values & np.int16(0xFFF)  # the bits above the stored ones say nothing
    signed = deep().astype(np.int16) - 2048
    for value, data in zip(signed, frames(grey(values, syntax), tmp_path), strict=True):
        assert np.array_equal(read_raw(data).values[..., 0], value)


@pytest.mark.parametrize("syntax", [*NATIVE, *RLE], ids=named)
def test_bits_above_the_stored_ones_are_no_value(syntax: Any) -> None:
    values = deep()
    overlaid = values | np.uint16(0xA000)
    assert np.array_equal(read_raw(grey(overlaid, syntax)).values[..., 0], values[0])


def test_values_may_lie_at_the_top_of_their_bits(tmp_path: Path) -> None:
    values = deep()
    data = grey(values << 4 | 0xB, uid.ExplicitVRLittleEndian, HighBit=15)
    for value, frame in zip(values, frames(data, tmp_path), strict=True):
        assert np.array_equal(read_raw(frame).values[..., 0], value)


@pytest.mark.parametrize("segmented", [False, True])
@pytest.mark.parametrize("syntax", [*NATIVE, *RLE, uid.JPEGLSLossless], ids=named)
def test_frames_of_a_palette_loop_have_its_colours(
    syntax: Any, segmented: bool, tmp_path: Path
) -> None:
    tables = np.linspace([0, 255, 40], [255, 0, 90], 256).round().astype(np.uint16)
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, table in zip(("Red", "Green", "Blue"), tables.T, strict=True):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        entries = table * 256 + 7
        words = [0, 256, *entries.tolist()] if segmented else entries
        order = ">u2" if syntax == uid.ExplicitVRBigEndian else "<u2"
        field = f"{'Segmented' if segmented else ''}{name}PaletteColorLookupTableData"
        tags[field] = np.array(words).astype(order).tobytes()
    indices = (deep(bits=8) & 255).astype(np.uint8)
    for index, data in zip(
        indices, frames(grey(indices, syntax, 8, **tags), tmp_path), strict=True
    ):
        assert np.array_equal(decode(data, 3), tables[index])


def test_a_palette_of_eight_bits_may_have_thousands_of_entries() -> None:
    table = (np.arange(4096) // 16).astype(np.uint8)
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name in ("Red", "Green", "Blue"):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [4096, 0, 8]
        tags[f"{name}PaletteColorLookupTableData"] = table.tobytes()
    data = grey(deep(1), uid.JPEGLSLossless, **tags)
    assert np.array_equal(decode(data, 3)[..., 1], deep(1)[0] // 16)


def test_frames_of_single_bits_are_read_by_their_number(tmp_path: Path) -> None:
    masks = deep(3)[:, :5, :7] > 2000
    masks[1] = ~masks[0]
    dataset = header(
        5, 7, uid.ExplicitVRLittleEndian, BitsAllocated=1, BitsStored=1, HighBit=0, NumberOfFrames=3
    )
    dataset.PixelData = np.packbits(masks.reshape(-1), bitorder="little").tobytes()
    dataset["PixelData"].VR = "OB"
    for mask, data in zip(masks, frames(written(dataset), tmp_path), strict=True):
        assert np.array_equal(read_raw(data).values[..., 0], mask)


def groups(**items: dict[str, Any]) -> Any:
    made = Dataset()
    for name, values in items.items():
        item = Dataset()
        for key, value in values.items():
            setattr(item, key, value)
        setattr(made, name, Sequence([item]))
    return made


def test_functional_groups_say_what_the_values_of_each_frame_are(tmp_path: Path) -> None:
    values = deep()
    shared = groups(FrameVOILUTSequence={"WindowCenter": 0, "WindowWidth": 2001})
    own = [
        groups(
            PixelValueTransformationSequence={"RescaleSlope": n + 1, "RescaleIntercept": -100 * n}
        )
        for n in range(3)
    ]
    own[2].FrameVOILUTSequence = groups(
        FrameVOILUTSequence={"WindowCenter": 6000, "WindowWidth": 4001}
    ).FrameVOILUTSequence
    data = grey(
        values, uid.JPEGLSLossless, SharedFunctionalGroupsSequence=Sequence([shared]),
        PerFrameFunctionalGroupsSequence=Sequence(own),
    )  # fmt: skip
    found = [read_raw(frame) for frame in frames(data, tmp_path)]
    for n, raw in enumerate(found):
        assert np.array_equal(raw.values[..., 0], values[n] * np.float32(n + 1) - 100 * n)
    assert [raw.window for raw in found] == [
        (-1000.5, 999.5), (-1000.5, 999.5), (3999.5, 7999.5)
    ]  # fmt: skip
    assert np.array_equal(read_raw(data).values, found[0].values)


def test_the_files_own_way_of_showing_is_followed() -> None:
    values = np.array([[[0, 1000, 2000, 3000]]], np.uint16)
    syntax = uid.ExplicitVRLittleEndian
    window = {"WindowCenter": 1000, "WindowWidth": 2000}
    exact = grey(values, syntax, **window, VOILUTFunction="LINEAR_EXACT")
    assert decode(exact, 1)[0, :, 0].tolist() == [0, 128, 255, 255]
    curve = grey(values, syntax, **window, VOILUTFunction="SIGMOID")
    expected = np.rint(255 / (1 + np.exp(-4 * (values[0, 0] - 1000.0) / 2000)))
    assert decode(curve, 1)[0, :, 0].tolist() == expected.tolist()
    assert decode(curve, 1, ((0.0, 3000.0),))[0, :, 0].tolist() == [0, 85, 170, 255]
    table = Dataset()
    table.LUTDescriptor = [3001, 0, 8]
    table.add_new("LUTData", "US", (np.arange(3001) // 1000 * 50).tolist())
    told = grey(values, syntax, VOILUTSequence=Sequence([table]))
    assert decode(told, 1)[0, :, 0].tolist() == [0, 50, 100, 150]
    inverted = grey(
        values, syntax, VOILUTSequence=Sequence([table]), PhotometricInterpretation="MONOCHROME1"
    )
    assert decode(inverted, 1)[0, :, 0].tolist() == [255, 205, 155, 105]


@pytest.mark.parametrize("syntax", NATIVE[:3], ids=named)
def test_a_file_without_its_preamble_is_read(syntax: Any, tmp_path: Path) -> None:
    values = deep()
    whole = grey(values, syntax, ImageType=["ORIGINAL", "PRIMARY"])
    bare = whole[132:]
    meta = 12 + int.from_bytes(bare[8:12], "little")
    for data in (bare, bare[meta:]):  # without, and with what names the syntax
        assert np.array_equal(read_raw(data).values[..., 0], values[0])
    assert len(frames(bare, tmp_path)) == 3


def test_a_float_picture_is_read(tmp_path: Path) -> None:
    values = deep().astype(np.float32) / 7 - 100
    dataset = header(24, 32, uid.ExplicitVRLittleEndian, BitsAllocated=32, NumberOfFrames=3)
    del dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
    dataset.FloatPixelData = values.tobytes()
    for value, data in zip(values, frames(written(dataset), tmp_path), strict=True):
        assert np.array_equal(read_raw(data).values[..., 0], value)


def test_one_frame_is_read_without_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken frames of a loop do not matter to the sound one."""
    streams = [packed(frame, uid.JPEGLSLossless, 8) for frame in colours()]
    streams[0] = streams[2] = b"\xff\xd8 no picture "
    dataset = header(
        24, 32, uid.JPEGLSLossless, SamplesPerPixel=3, PlanarConfiguration=0, BitsAllocated=8,
        BitsStored=8, HighBit=7, PhotometricInterpretation="RGB",
    )  # fmt: skip
    found = frames(with_pixels(dataset, streams), tmp_path)
    assert np.array_equal(decode(found[1], 3), colours()[1])
    with pytest.raises(DataError, match="no JPEG stream"):
        decode(found[2], 3)


def test_a_stream_that_is_cut_short_is_refused_before_it_is_decompressed() -> None:
    stream = packed(deep(1)[0], uid.JPEGLSLossless, 12)
    dataset = header(24, 32, uid.JPEGLSLossless, BitsStored=12, HighBit=11)
    with pytest.raises(DataError, match="cut short"):
        decode(with_pixels(dataset, [stream[:-40]]), 1)


def bomb(syntax: Any, rows: int = 16, stream: bytes = b"") -> bytes:
    dataset = header(rows, 16, syntax, BitsStored=12, HighBit=11)
    return with_pixels(dataset, [stream])


SIDE = 30_000
LIE = SIDE.to_bytes(2, "big")
JPEG_HEAD = b"\xff\xd8\xff\xc3\x00\x0b\x0c" + LIE + LIE + b"\x01\x01\x11\x00"
J2K_SIZE = b"".join(n.to_bytes(4, "big") for n in (SIDE, SIDE, 0, 0, SIDE, SIDE, 0, 0))
TILES = b"".join(n.to_bytes(4, "big") for n in (16, 16, 0, 0, 1, 1, 0, 0))
SIZ = b"\xff\x4f\xff\x51\x00\x29\x00\x00"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bomb(uid.JPEGLosslessSV1, stream=JPEG_HEAD), "30000 x 30000 pixels of 1 samples, the header"),
        (bomb(uid.JPEGLSLossless, stream=JPEG_HEAD), "30000 x 30000"),
        (bomb(uid.JPEG2000, stream=SIZ + J2K_SIZE + b"\x00\x01\x07\x01\x01"), "30000 x 30000"),
        (bomb(uid.HTJ2K, stream=SIZ + J2K_SIZE + b"\x40\x00\x07\x01\x01"), "of 16384 samples"),
        (bomb(uid.JPEG2000, rows=60_000, stream=SIZ + TILES), "cut short"),
        (bomb(uid.RLELossless, stream=b"\x02" + b"\0" * 3 + b"\x40" + b"\0" * 59 + b"\x81\0" * 9999),
         "dicom: "),
    ],
)  # fmt: skip
def test_a_stream_that_holds_more_than_the_header_says_is_not_decompressed(
    data: bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded(*args: Any, **options: Any) -> Any:
        raise AssertionError("decompressed")

    for name in ("jpeg8_decode", "jpegls_decode", "jpeg2k_decode"):
        monkeypatch.setattr(imagecodecs, name, decoded)
    with pytest.raises(DataError, match=words):
        decode(data, 1)


def test_a_picture_larger_than_the_limit_is_refused_by_its_header() -> None:
    data = bomb(uid.JPEGLSLossless, rows=65_535, stream=JPEG_HEAD)
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.Columns = 65_535
    with pytest.raises(DataError, match="65535 x 65535 pixels in 1 channels, the limit is 25"):
        decode(written(dataset), 1)


def test_a_deflated_file_is_inflated_to_a_limit_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from jepack.decoding import dicom

    data = grey(deep(), uid.DeflatedExplicitVRLittleEndian)
    assert np.array_equal(read_raw(data).values[..., 0], deep()[0])
    monkeypatch.setattr(dicom, "MAX_INFLATED", 2000)
    with pytest.raises(DataError, match="deflated, and more than 0 MB when inflated"):
        decode(data, 1)
    start = 132 + 12 + int.from_bytes(data[140:144], "little")
    endless = zlib.compressobj(wbits=-15)
    packed_zeros = endless.compress(bytes(20_000_000)) + endless.flush()
    with pytest.raises(DataError, match="deflated"):
        decode(data[:start] + packed_zeros, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"Rows": None}, "its header lacks Rows"),
        ({"SamplesPerPixel": 2}, "2 samples in each pixel"),
        ({"Rows": 400}, "cut short, frame 1 ends at byte 25,600 of its pixels and 1,536 are there"),
        ({"PixelData": None}, "holds no picture"),
    ],
)
def test_a_header_that_cannot_be_true_is_refused_with_what_is_wrong(
    change: dict[str, Any], words: str
) -> None:
    dataset = pydicom.dcmread(io.BytesIO(grey(deep(1), uid.ExplicitVRLittleEndian)))
    for name, value in change.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    with pytest.raises(DataError, match=words):
        decode(written(dataset), 1)


def test_a_syntax_that_nobody_reads_is_named() -> None:
    with pytest.raises(DataError, match="MPEG.*not read here; convert it"):
        decode(bomb(uid.MPEG4HP41, stream=b"film"), 1)


def test_a_missing_decoder_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    data = grey(deep(1), uid.JPEGLSLossless)
    monkeypatch.setitem(__import__("sys").modules, "imagecodecs", None)
    with pytest.raises(DependencyError, match=r"imagecodecs.*pip install 'jepack\[dicom\]'"):
        decode(data, 1)


LIKE = [f"MR_small{name}.dcm" for name in ("", "_RLE", "_jp2klossless", "_jpeg_ls_lossless")]


def test_pydicoms_own_files_give_its_pixels_or_a_reason() -> None:
    """What pydicom reads here with Pillow and NumPy alone, and what it leaves to other libraries."""
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    compared = 0
    warnings.simplefilter("ignore")  # pydicom's, of the faults these files have on purpose
    for path in sorted(folder.glob("*.dcm")):
        dataset = pydicom.dcmread(path, force=True)
        with suppress(DataError):
            found = read_raw(path.read_bytes()).values
            with suppress(RuntimeError, AttributeError):  # no decoder, no syntax told
                expected = dataset.pixel_array
                if int(dataset.get("NumberOfFrames", 1) or 1) > 1:
                    expected = expected[0]
                if dataset.PhotometricInterpretation == "PALETTE COLOR":
                    expected = pydicom.pixels.apply_color_lut(expected, dataset)
                else:
                    expected = pydicom.pixels.apply_rescale(expected, dataset)
                expected = expected.reshape(found.shape).astype(found.dtype)
                assert np.array_equal(found, expected), path
                compared += 1
    assert compared > 40
    same = [read_raw((folder / name).read_bytes()).values for name in LIKE]
    assert all(np.array_equal(values, same[0]) for values in same)
