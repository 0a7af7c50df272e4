"""Pictures that Pillow reads: bytes -> an upright Pillow image, or Raw values where it would lose depth.

Metadata never refuses pixels: a file whose notes cannot be parsed is read without them.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

from jepack.decoding.intensity import Raw
from jepack.decoding.limits import SERVED, Limits, need
from jepack.errors import DataError, DepthError, TooLargeError

# A fixed list: every format here is one more parser that meets hostile bytes. JPEG 2000 and AVIF are on it
# because satellites and phones write them, Pillow's wheels carry and update their libraries, and a format
# that training reads must be read when served. Left out are formats that run programs (EPS), that no
# camera writes, or that hold no pixels of their own.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "AVIF")
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".tif", ".tiff", ".bmp", ".gif",
    ".jp2", ".j2k", ".jpx", ".avif", ".heic", ".heif",
)  # fmt: skip
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I", "F")  # more than 8 bits

TURNS = {  # EXIF's orientation: how to set the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

TURNED = (5, 6, 7, 8)  # the ones that swap height and width

# What a file of another kind is, by its first bytes, so that a refusal can name it.
OTHERS = (
    (b"\xff\x0a", "JPEG XL"), (b"\0\0\0\x0cJXL ", "JPEG XL"), (b"8BPS", "a Photoshop document"),
    (b"%PDF", "a PDF document"), (b"%!PS", "PostScript"), (b"<svg", "an SVG drawing"),
    (b"<?xml", "XML"), (b"<!DOC", "a web page"), (b"<html", "a web page"),
    (b"v/1\x01", "OpenEXR"), (b"#?RADIANCE", "Radiance HDR"), (b"\x89HDF", "HDF5"),
    (b"PK\x03\x04", "a zip archive"), (b"\x1f\x8b", "gzip"), (b"FUJIFILM", "a raw photograph"),
    (b"IIU\0", "a raw photograph"), (b"IIRO", "a raw photograph"), (b"SIMPLE", "FITS"),
)  # fmt: skip


def open_picture(
    data: bytes, kind: str, *, deep: bool, limits: Limits = SERVED
) -> Image.Image | Raw:
    """A decoded, upright picture. `deep`: depth beyond 8 bits matters, because a window will be applied."""
    formats = formats_of(kind)
    first: Exception | None = None
    for attempt in attempts(data):
        try:
            return opened(attempt, formats, deep, limits)
        except DataError:
            raise
        except (UnidentifiedImageError, Image.DecompressionBombError) as error:
            first = first or error
        except Exception as error:  # Pillow's parsers raise a wide family
            first = first or error
    assert first is not None
    if isinstance(first, Image.DecompressionBombError):
        raise TooLargeError(str(first)) from first
    if isinstance(first, UnidentifiedImageError):
        raise DataError(unknown(data)) from first
    raise first


def formats_of(kind: str) -> tuple[str, ...]:
    """Pillow's names of what a file of this kind may be; HEIC's library joins Pillow when it is needed."""
    if kind != "heic":
        return FORMATS
    need("pillow_heif", "heic").register_heif_opener(thumbnails=False)
    return ("HEIF",)


def opened(data: bytes, formats: tuple[str, ...], deep: bool, limits: Limits) -> Image.Image | Raw:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=formats) as image:
            check_pixels(image, limits)
            bits = bits_of(image, data)
            if deep and bits > 8 and image.mode not in DEEP_MODES:
                raise DepthError(
                    "16-bit colour outside TIFF keeps only 8 bits here, so a window cannot apply; "
                    "save it as TIFF or npy"
                )
            image.load()
            turned = upright(image)
            if image.mode not in DEEP_MODES:
                return turned
            return deep_values(turned, image.format, bits)


def deep_values(turned: Image.Image, kind: str | None, bits: int) -> Raw:
    """[H, W, 1] of a picture of one of DEEP_MODES."""
    values = np.asarray(turned)[..., None]
    if kind == "JPEG2000" and 8 < bits < 16:  # Pillow moves them up to 16 bits
        return Raw(values >> (16 - bits), bits=bits)
    return Raw(values)


def check_pixels(image: Image.Image, limits: Limits) -> None:
    if image.width * image.height > limits.pixels:
        raise TooLargeError(
            f"{image.width} x {image.height} pixels, "
            f"the limit is {limits.pixels / 1e6:.0f} megapixels"
        )


def upright(image: Image.Image) -> Image.Image:
    """Turned as EXIF says; other entries of EXIF, however odd, are not looked at."""
    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # no EXIF that can be parsed: as stored
        return image
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def bits_of(image: Image.Image, data: bytes) -> int:
    """Bits per channel in the file, which Pillow's mode hides."""
    if image.format == "PNG":
        return data[24]  # IHDR's bit depth
    if image.format == "JPEG2000":
        start = data.find(b"\xff\x4f\xff\x51")  # start of codestream and its SIZ segment
        return (data[start + 42] & 0x7F) + 1 if 0 <= start < len(data) - 42 else 8
    return 8


def unknown(data: bytes) -> str:
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    kind = next(
        (name for start, name in OTHERS if data.startswith(start) or head.startswith(start)), None
    )
    if kind == "XML" and b"<svg" in head:
        kind = "an SVG drawing"
    told = f"it is {kind}, " if kind else ""
    return f"{told}not an image of a known format ({', '.join(FORMATS)})"


def attempts(data: bytes) -> Iterator[bytes]:
    """The file; then, for PNG and JPEG, the file without notes; then without EXIF too."""
    yield data
    for exif in (True, False):
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            yield b"".join(png_chunks(data, exif))
        elif data[:3] == b"\xff\xd8\xff":
            yield b"".join(jpeg_segments(data, exif))


def png_chunks(data: bytes, exif: bool) -> Iterator[bytes]:
    """Chunks that make the pixels: the critical ones (a capital letter first) and transparency."""
    yield data[:8]
    at = 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        name = data[at + 4 : at + 8]
        if name[:1].isupper() or name == b"tRNS" or (exif and name == b"eXIf"):
            yield data[at:end]
        at = end


def jpeg_segments(data: bytes, exif: bool) -> Iterator[bytes]:
    """Segments that make the pixels, with JFIF's and Adobe's, which say how colours are stored."""
    yield data[:2]
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xDA:  # the scan, up to the end of the file
            break
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:  # fill, or without a length
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        notes = (0xE1 <= marker <= 0xEF and marker != 0xEE) or marker == 0xFE
        if not notes or (exif and marker == 0xE1 and data[at + 4 : at + 8] == b"Exif"):
            yield data[at:end]
        at = end
    yield data[at:]
