"""TIFF: a page, or an image of channels that lie on pages, -> what its tags say its values are.

One way for whole files, pages of stacks and windows of maps: min-is-white, palettes, CMYK, transparency,
nodata and further channels mean the same in each. Pillow reads what it reads faithfully, tifffile the rest.
"""

from __future__ import annotations

import io
import logging
import math
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jepack.decoding.intensity import Raw, as_image
from jepack.decoding.limits import SERVED, Limits, check_size, need
from jepack.decoding.pictures import DEEP_MODES, TURNED, upright
from jepack.decoding.tiff_stacks import channels_last, stack_of, stacked
from jepack.decoding.tiff_tags import (
    COLOURS,
    MIN_IS_BLACK,
    MIN_IS_WHITE,
    RGB,
    Tags,
    check_tile,
    resolve,
)
from jepack.errors import DataError, DependencyError, JepackError, TooLargeError

# What is odd about a stranger's file it logs, to stderr where nobody set logging up: a flood, in a server.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def open_tiff(
    source: bytes | Path,
    channels: int | None,
    *,
    deep: bool,
    limits: Limits = SERVED,
    page: int = 0,
    image: int | None = None,
) -> Image.Image | Raw:
    """One page, or the `image`-th of a file whose axes say that its channels lie on pages.

    An encoder of as many channels as a page has samples gets them as they lie, transparency too.
    Raises DataError, and DependencyError when only tifffile reads it and it is not installed.
    """
    reason: Exception | None = None
    if image is None:
        try:
            picture = by_pillow(source, channels, deep, limits, page)
            if picture is not None:
                return picture
        except JepackError:
            raise
        except Exception as error:  # an unusual layout, or damage: tifffile may know better
            reason = error
    try:
        tifffile = need("tifffile", "tiff")
        with tifffile.TiffFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            return by_tifffile(file, channels, limits, page, image)
    except DataError:
        raise
    except DependencyError:
        if reason is None or "cannot identify" in str(reason):
            raise
        raise reason from None
    except Exception as error:  # of many kinds
        raise DataError(f"tiff: {error or type(error).__name__}") from error


def by_pillow(
    source: bytes | Path, channels: int | None, deep: bool, limits: Limits, page: int
) -> Image.Image | Raw | None:
    """None where Pillow would lose depth, channels or meaning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(
            io.BytesIO(source) if isinstance(source, bytes) else source, formats=("TIFF",)
        ) as opened:
            opened.seek(page)
            tags = Tags.read(getattr(opened, "tag_v2", {}).get)
            if not faithful(tags, channels, deep, page):
                return None
            check_size((opened.height, opened.width, tags.samples), limits)
            check_tile(tags, tags.samples * -(-tags.bits // 8))
            opened.load()
            return meaning(upright(opened), tags)


def faithful(tags: Tags, channels: int | None, deep: bool, page: int) -> bool:
    if page == 0 and tags.told_axes:
        return False
    if channels not in (None, 1, 3) and (tags.samples > 1 or tags.channels != channels):
        return False
    whole = tags.samples == COLOURS.get(tags.photometric, 0) + (tags.alpha is not None)
    # Red, green and blue of more channels, for an encoder that takes only these.
    first = tags.photometric == RGB and channels in (1, 3) and set(tags.extras) == {0}
    if not whole and not first:
        return False
    if tags.bits <= 8:
        return tags.samples == 1 or not tags.signed
    if tags.samples == 1:
        return tags.photometric in (MIN_IS_WHITE, MIN_IS_BLACK)
    return not deep and tags.photometric == RGB and not tags.signed and not tags.floating


def meaning(image: Image.Image, tags: Tags) -> Image.Image | Raw:
    """The image, or Raw where its values mean something that Pillow does not know of."""
    inverted = tags.photometric == MIN_IS_WHITE
    if image.mode in DEEP_MODES:
        values = np.asarray(image)
        if image.mode == "I" and not tags.signed:
            values = values.view("uint32")
        return Raw(values[..., None], inverted=inverted, nodata=tags.nodata, bits=tags.depth)
    if image.mode == "L" and tags.signed:
        return Raw(np.asarray(image).view("int8")[..., None], nodata=tags.nodata)
    if image.mode == "L" and inverted and tags.bits == 8:  # Pillow has turned them; the file's own
        return Raw(255 - np.asarray(image)[..., None], inverted=True, nodata=tags.nodata)
    if image.mode in ("L", "RGB") and tags.nodata is not None:
        values = np.asarray(image).reshape(image.height, image.width, -1)
        return Raw(values, nodata=tags.nodata, colour=image.mode == "RGB")
    return image


def by_tifffile(
    file: Any, channels: int | None, limits: Limits, page: int, image: int | None
) -> Raw:
    first = file.pages[page]
    tags = Tags.read(lambda code: getattr(first.tags.get(code), "value", None))
    check_tile(tags, tags.samples * first.dtype.itemsize if first.dtype else 1)
    check_segments(file, first, limits)
    series = stacked(file) if image is not None or (page == 0 and tags.told_axes) else None
    if series is not None:
        return Raw(stack_of(series, image or 0, limits), nodata=tags.nodata)
    if image is not None:
        raise DataError("tiff: has no axes of channels and images")
    shape = (first.imagelength, first.imagewidth, tags.samples * first.imagedepth)
    if channels not in (None, 1, 3, tags.samples, tags.channels):  # channels may lie on pages
        whole = file.series[0]
        check_size((*shape[:2], math.prod(whole.shape) // max(1, shape[0] * shape[1])), limits)
        return Raw(as_image(np.squeeze(whole.asarray()), channels))
    check_size(shape, limits)
    values = channels_last(first.asarray(), first.axes)
    if channels not in (None, 1, 3) and channels == tags.samples:
        return Raw(values, nodata=tags.nodata)
    # tifffile turns compressed YCbCr into RGB.
    return resolve(values, tags, getattr(first, "colormap", None))


# Compressions whose strips and tiles are as large as the page says; those that are pictures of their own,
# whose size Pillow reads from their header; and LERC, which begins with its size.
BOUNDED = (1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000, 50013)
PICTURES = (6, 7, 33003, 33004, 33005, 34712, 50001)
LERC = 34887


def check_segments(file: Any, page: Any, limits: Limits) -> None:
    """Refuse strips and tiles that unpack to more than they have to, before any is unpacked."""
    compression = int(page.compression)
    if compression in BOUNDED:
        return
    if compression not in PICTURES and compression != LERC:
        raise DataError(
            f"tiff: compressed in a way that is not read here ({page.compression!r}); save it with Deflate, "
            "LZW, Zstandard or JPEG"
        )
    expected = math.prod(page.chunks)
    for start, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        file.filehandle.seek(start)
        head = file.filehandle.read(min(count, 1 << 16))
        if compression == LERC:
            told = head[14:22] if head.startswith(b"Lerc2 ") else b""
            size = (int.from_bytes(told[:4], "little"), int.from_bytes(told[4:], "little"))
            if not told:
                raise DataError(
                    "tiff: compressed by LERC and once more; save it with Deflate or Zstandard"
                )
        elif head:
            with Image.open(io.BytesIO(head), formats=("JPEG", "JPEG2000", "WEBP")) as inner:
                size = inner.size
        else:
            continue
        if math.prod(size) > 4 * expected + 65536:
            raise TooLargeError(
                f"tiff: holds a strip or tile of {size[0]} x {size[1]} px where {expected} px are due"
            )


def page_sizes(path: Path, most: int = 64) -> tuple[list[int], set[tuple[int, int]]]:
    """Numbers of the pages that are images, and the (width, height) of the first ones. Raises of many kinds.

    Pages that say that they are a smaller copy of another one, or its mask, are none (of the first `most`).
    """
    try:
        with Image.open(path, formats=("TIFF",)) as opened:
            pages, sizes = getattr(opened, "n_frames", 1), {}
            for page in range(min(pages, most)):
                opened.seek(page)
                if not aside(getattr(opened, "tag_v2", {}).get(NEW_SUBFILE)):
                    sizes[page] = opened.size
    except (OSError, SyntaxError):  # such as an unusual layout, of any page
        with need("tifffile", "tiff").TiffFile(path) as file:
            pages, sizes = len(file.pages), {}
            for page in range(min(pages, most)):
                told = file.pages[page]
                if not aside(getattr(told.tags.get(NEW_SUBFILE), "value", None)):
                    sizes[page] = (told.imagewidth, told.imagelength)
    return [*sizes, *range(most, pages)], set(sizes.values())


NEW_SUBFILE = 254  # the tag; bit 0: a smaller copy of another page, bit 2: its mask


def aside(kind: Any) -> bool:
    return isinstance(kind, int) and bool(kind & 0b101)


def size_of_page(source: Path | bytes, page: int) -> tuple[int, int]:
    """Upright height and width of a page as open_tiff gives it, from its header. Raises of many kinds."""

    def stream() -> Any:
        return io.BytesIO(source) if isinstance(source, bytes) else source

    with suppress(OSError, SyntaxError), Image.open(stream(), formats=("TIFF",)) as opened:
        opened.seek(page)
        told = getattr(opened, "tag_v2", {})
        width, height = int(told[256]), int(told[257])  # as stored: Pillow's size may be turned
        turned = told.get(274) in TURNED and faithful(Tags.read(told.get), None, True, page)
        return (width, height) if turned else (height, width)
    with need("tifffile", "tiff").TiffFile(stream()) as file:
        stored = file.pages[page]
        return int(stored.imagelength), int(stored.imagewidth)
