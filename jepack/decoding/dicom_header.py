"""DICOM headers: what a file says of its pixels, and where they start. pydicom reads.

Nothing is decompressed here but a file that is deflated as a whole, to a limit.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jepack.decoding.limits import need
from jepack.errors import DataError

PIXELS = {
    0x7FE00008: ("FloatPixelData", "OF"),
    0x7FE00009: ("DoubleFloatPixelData", "OD"),
    0x7FE00010: ("PixelData", "OW"),
}
NEEDED = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "PhotometricInterpretation")
# All that is taken from a header: the rest, a patient's name or a million made-up elements, is passed over.
TAGS = [
    *NEEDED, "PlanarConfiguration", "NumberOfFrames", "BitsStored", "HighBit", "PixelRepresentation",
    "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "ModalityLUTSequence",
    "RescaleSlope", "RescaleIntercept", "RescaleType", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
    *(
        f"{segmented}{colour}PaletteColorLookupTable{what}"
        for colour in ("Red", "Green", "Blue")
        for segmented, what in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
    ),
]  # fmt: skip
UNKNOWN_LENGTH = 0xFFFFFFFF


@contextmanager
def quiet() -> Iterator[None]:
    """pydicom warns of every small fault of a header that it reads past."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def may_be_large(data: bytes, pixels: int) -> bool:
    """Whether a file may hold more pixels than this, without parsing it: a bit each at least, or packed."""
    if len(data) * 8 > pixels:
        return True
    return any(
        name in data[:4096]
        for name in (b"1.2.840.10008.1.2.4.", b"1.2.840.10008.1.2.5", b".1.2.1.99")
    )


def opened(stream: Any, most: int) -> tuple[Any, Any, Any]:
    """Header, transfer syntax, and a stream that stands before the pixels' element.

    A file that is deflated as a whole may have `most` bytes. Files without the preamble of 128 bytes, or
    without the part that names the syntax, are read too.
    """
    pydicom, reader = need("pydicom", "dicom"), need("pydicom.filereader", "dicom")
    uid = need("pydicom.uid", "dicom")
    head = stream.read(132)
    start = 132 if head[128:] == b"DICM" else 0
    stream.seek(start)
    meta = reader.read_dataset(stream, False, True, stop_when=lambda tag, *_: tag.group != 2)
    if meta.get("TransferSyntaxUID") == uid.DeflatedExplicitVRLittleEndian:
        stream = io.BytesIO(inflated(stream, most))
        header = reader.read_dataset(
            stream,
            False,
            True,
            stop_when=lambda tag, *_: tag in PIXELS,
            specific_tags=[need("pydicom.tag", "dicom").Tag(name) for name in TAGS],
        )
        return header, uid.ExplicitVRLittleEndian, stream
    stream.seek(0)
    header = pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=list(TAGS))
    syntax = header.file_meta.get("TransferSyntaxUID")
    if not syntax:
        implicit, little = header.original_encoding
        syntax = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        syntax = syntax if little else uid.ExplicitVRBigEndian
    return header, uid.UID(syntax), stream


def inflated(stream: Any, most: int) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflater.decompress(stream.read(), most)
    if inflater.unconsumed_tail:
        raise DataError(f"dicom: deflated, and more than {most / 1e6:.0f} MB when inflated")
    return data


def pixel_element(stream: Any, syntax: Any) -> tuple[int, str, str, int]:
    """Where the pixels start, their element's name, kind and length in bytes."""
    order = "<" if syntax.is_little_endian else ">"
    head = stream.read(12)
    tag = 0
    if len(head) == 12:
        group, element = struct.unpack_from(order + "HH", head)
        tag = group << 16 | element
    if tag not in PIXELS:
        raise DataError("dicom: holds no picture")
    start = stream.tell()
    name, kind = PIXELS[tag]
    if head[4:6] in (b"OB", b"OW", b"OF", b"OD", b"UN"):
        kind = head[4:6].decode()
        (length,) = struct.unpack_from(order + "I", head, 8)
    else:  # implicit, whatever the syntax says
        (length,) = struct.unpack_from(order + "I", head, 4)
        start -= 4
    if length == UNKNOWN_LENGTH and not syntax.is_encapsulated:
        raise DataError("dicom: its pixels are compressed, and it does not say how")
    return start, name, kind, length
