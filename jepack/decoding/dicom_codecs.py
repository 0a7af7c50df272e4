"""Compressed DICOM frames -> pixels, by imagecodecs (libjpeg-turbo, CharLS, OpenJPEG); a plugin of pydicom's.

One library for every syntax, at training and in the server, so that what else is installed (gdcm, pylibjpeg)
changes no pixel. A stream's own header is held against the file's before anything is decompressed.
Layouts: ISO 10918-1 B.2.2 (JPEG), ISO 14495-1 C.2.2 (JPEG-LS), ISO 15444-1 A.5.1 (JPEG 2000).
"""

from __future__ import annotations

import struct
import threading
from typing import Any

import numpy as np

from jepack.decoding.limits import need
from jepack.errors import DataError

NAME = "jepack"  # of the plugin
MAX_TILES = 4096  # of a JPEG 2000 stream; OpenJPEG keeps about 6 kB for each before it decodes
JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
JPEG_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203))  # and HTJ2K
RLE = ("1.2.840.10008.1.2.5",)
SYNTAXES = (*JPEG, *JPEG_LOSSLESS, *JPEG_LS, *JPEG_2000, *RLE)
DECODER_DEPENDENCIES = dict.fromkeys(SYNTAXES, ("imagecodecs",))

alone = threading.Lock()


def is_available(syntax: str) -> bool:
    """Asked by pydicom; a missing imagecodecs is told by `decoder_of`."""
    return syntax in DECODER_DEPENDENCIES


def decoder_of(syntax: Any) -> tuple[Any, str]:
    """pydicom's decoder of a transfer syntax, and the plugin it should use.

    Raises DataError for a syntax that nobody reads, DependencyError where imagecodecs is missing.
    """
    pixels = need("pydicom.pixels", "dicom")
    try:
        decoder = pixels.get_decoder(syntax)
    except NotImplementedError:
        raise DataError(
            f"dicom: its transfer syntax is {syntax.name}, which is not read here; convert it to "
            "JPEG 2000, JPEG-LS, RLE or uncompressed"
        ) from None
    if not syntax.is_encapsulated:
        return decoder, ""
    need("imagecodecs", "dicom")
    with alone:
        if NAME not in decoder.available_plugins:
            decoder.add_plugin(NAME, (__name__, "decode_frame"))
    return decoder, NAME


def decode_frame(source: bytes, runner: Any) -> bytes | bytearray:
    """One frame's stream -> its samples, colours as they are stored; tells `runner` how they lie."""
    imagecodecs = need("imagecodecs", "dicom")
    syntax, samples = str(runner.transfer_syntax), runner.samples_per_pixel
    shape = (runner.rows, runner.columns, samples)
    if syntax in RLE:
        runner.set_option("planar_configuration", 1)
        wide = f"<u{runner.bits_allocated // 8}"
        size = runner.rows * runner.columns * samples * runner.bits_allocated // 8
        return imagecodecs.dicomrle_decode(source, wide, out=size)  # type: ignore[no-any-return]
    if syntax in JPEG_2000:
        source = source[max(0, source.find(b"\xff\x4f\xff\x51")) :]  # without a JP2 wrapper
        check_stream(size_of_jpeg2000(source), shape)
        values = imagecodecs.jpeg2k_decode(source)
        if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):  # undone by the decoder
            runner.set_option("photometric_interpretation", "RGB")
    else:
        size, transformed = size_of_jpeg(source)
        check_stream(size, shape)
        if syntax in JPEG_LS:
            if not source.rstrip(b"\0").endswith(b"\xff\xd9"):  # CharLS would search on for seconds
                raise DataError("its compressed stream is cut short")
            values = imagecodecs.jpegls_decode(source)
        elif samples == 3:
            # The same space in and out: the components as they are stored.
            values = imagecodecs.jpeg8_decode(source, colorspace="YCBCR", outcolorspace="YCBCR")
            if transformed and "YBR" not in runner.photometric_interpretation:
                runner.set_option("photometric_interpretation", "YBR_FULL")
        else:
            values = imagecodecs.jpeg8_decode(source)
    if samples > 1:
        if values.shape != shape:
            values = np.moveaxis(values, 0, 2)  # JPEG-LS by planes
        runner.set_option("planar_configuration", 0)
    runner.set_option("bits_allocated", 8 * values.itemsize)
    return np.ascontiguousarray(values).tobytes()


def check_stream(stream: tuple[int, int, int], header: tuple[int, int, int]) -> None:
    """Rows, columns and samples of a stream against the file's header."""
    if stream != header:
        raise DataError(
            "its compressed stream holds {1} x {0} pixels of {2} samples, ".format(*stream)
            + "the header says {1} x {0} of {2}".format(*header)
        )


def size_of_jpeg(source: bytes) -> tuple[tuple[int, int, int], bool]:
    """Rows, columns, components of a JPEG or JPEG-LS stream, and whether Adobe's marker says YCbCr."""
    offset, transformed = 2, False
    while source[:2] == b"\xff\xd8" and offset + 10 <= len(source):
        while source[offset + 1 : offset + 2] == b"\xff":  # markers may be filled up
            offset += 1
        marker = source[offset + 1]
        (length,) = struct.unpack_from(">H", source, offset + 2)
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns, components = struct.unpack_from(">HHB", source, offset + 5)
            return (rows, columns, components), transformed
        if marker == 0xEE and source[offset + 4 : offset + 9] == b"Adobe" and length >= 14:
            transformed = source[offset + 15] == 1
        offset += 2 + length
    raise DataError("its compressed stream is no JPEG stream, or is cut short")


def size_of_jpeg2000(source: bytes) -> tuple[int, int, int]:
    """Rows, columns and components of a JPEG 2000 codestream."""
    if source[:4] != b"\xff\x4f\xff\x51" or len(source) < 42:
        raise DataError("its compressed stream is no JPEG 2000 stream, or is cut short")
    right, bottom, left, top, wide, high, tile_left, tile_top, components = struct.unpack_from(
        ">8IH", source, 8
    )
    tiles = -(-(right - tile_left) // max(wide, 1)) * -(-(bottom - tile_top) // max(high, 1))
    if tiles > MAX_TILES:
        raise DataError(f"its compressed stream is cut into {tiles:,} tiles")
    return bottom - top, right - left, components
