"""What a client may be given as an image, as the bytes that are sent.

H, W, C name height, width, channels.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from jepack.decoding import MAX_BYTES, upright
from jepack.errors import DataError
from jepack.names import shown
from jepack.sources import find_images, own_bytes

# One request carries at most this many bytes of image files, so memory stays bounded on both sides.
REQUEST_BYTES = 32 * 1024 * 1024
TAKEN = (
    "a path (str or Path), a file's bytes, a PIL image, or an array of uint8 or uint16 as [H, W] or "
    "[H, W, C]; one of them, a list of them, or a folder"
)
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|data:", re.ASCII)
DEPTHS = (np.uint8, np.uint16)  # of arrays; values of others would have no fixed range
# Pillow's modes that each file format keeps to the bit.
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B")
TIFF_MODES = ("I", "F", "CMYK", "LAB", "RGBX")


class Readable(Protocol):
    """Anything that gives an image's bytes when its turn comes, such as jepack.sources.ImageFile."""

    @property
    def name(self) -> str: ...

    def read(self) -> bytes: ...


Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Item = str | Path | bytes | Image.Image | Pixels | Readable


def listed(items: Item | Iterable[Item]) -> Sequence[Item]:
    """The items of a call; one image alone is a list of one, a folder all images in it (see find_images).

    Raises TypeError naming what is taken, DataError for a folder without images.
    """
    if isinstance(items, (bytearray, memoryview)):
        items = bytes(items)
    if isinstance(items, (str, Path)) and is_folder(items):
        found = find_images(Path(items), parts=True)
        return [one.path if one.part is None else one for one in found]
    if is_item(items) or not is_many(items):  # a wrong one, told whole
        items = [items]  # type: ignore[list-item]
    many: Sequence[Any] = items if isinstance(items, (list, tuple)) else list(cast(Any, items))
    many = [bytes(one) if isinstance(one, (bytearray, memoryview)) else one for one in many]
    for number, item in enumerate(many):
        if not is_item(item):
            raise TypeError(f"item {number} is {kind_of(item)}; an image is {TAKEN}")
        if isinstance(item, str) and ADDRESS.match(item) and not os.path.exists(item):
            raise TypeError(f"item {number} is {told_address(item)}")
    return many


def told_address(text: str) -> str:
    """What is to be done with an address that was given for an image."""
    if text.startswith("data:"):
        return "a data URL; give the file's bytes: base64.b64decode(TEXT.partition(',')[2])"
    return (
        f"an address ({shown(text)[:80]}), and none is fetched, here or by the server. Download it and give "
        "its bytes: client.embed(httpx.get(ADDRESS).content)"
    )


def is_folder(path: str | Path) -> bool:
    """Of a name that cannot be one, it is told when it is read."""
    return path != "" and os.path.isdir(path)  # Path("") would be the working folder


def is_many(value: Any) -> bool:
    """Whether it may hold images: a batch of arrays is [N, H, W, C], an array of paths [N]."""
    if isinstance(value, np.ndarray):
        return value.ndim == 4 or (value.ndim == 1 and value.dtype.kind in "OU")
    return isinstance(value, Iterable) and not isinstance(value, (dict, set, str))


def is_item(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype in DEPTHS and value.ndim in (2, 3) and value.size > 0
    if isinstance(value, str):
        return bool(value)
    return isinstance(value, (Path, bytes, Image.Image)) or (
        callable(getattr(value, "read", None)) and isinstance(getattr(value, "name", None), str)
    )


def kind_of(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} and shape {value.shape}"
    if isinstance(value, str) and not value:
        return "an empty path"
    return f"of type {type(value).__name__}"


@dataclass(frozen=True)
class Batch:
    images: dict[int, bytes]
    unread: dict[int, str]  # files that could not be read


def batches_of(
    items: Sequence[Item], batch_size: int, most_bytes: int = REQUEST_BYTES
) -> Iterator[Batch]:
    """Read items into batches bounded in number and bytes, lazily."""
    batch, weight = Batch({}, {}), 0
    for number, item in enumerate(items):
        try:
            data = bytes_of(item)
        except (DataError, MemoryError, OSError) as error:
            batch.unread[number] = str(error) or "needs more memory than there is"
            continue
        if batch.images and (len(batch.images) >= batch_size or weight + len(data) > most_bytes):
            yield batch
            batch, weight = Batch({}, {}), 0
        batch.images[number] = data
        weight += len(data)
    if batch.images or batch.unread:
        yield batch


def bytes_of(item: Item) -> bytes:
    """The file that is sent for an item. Raises DataError when it cannot be read."""
    if isinstance(item, bytes):
        return item
    if isinstance(item, (Path, str)):
        return read(Path(item))
    if isinstance(item, np.ndarray):
        return limited(array_file(item))
    if isinstance(item, Image.Image):
        return limited(picture_file(item))
    data = item.read()
    if not isinstance(data, bytes):
        raise TypeError(f"{item.name} reads as {kind_of(data)}; open it for bytes")
    return limited(data)


def array_file(pixels: Pixels) -> bytes:
    """PNG where it means the same; npy for 16 bits and for other channels, since a PNG's fourth is alpha."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype == np.uint8 and (pixels.ndim == 2 or pixels.shape[2] == 3):
        return picture_file(Image.fromarray(np.ascontiguousarray(pixels)))
    stream = io.BytesIO()
    np.save(stream, pixels, allow_pickle=False)
    return stream.getvalue()


def picture_file(image: Image.Image) -> bytes:
    """A lossless file of a PIL image, turned upright as its own file would be."""
    stream = io.BytesIO()
    try:
        turned = upright(image)
        if turned.mode not in (*PNG_MODES, *TIFF_MODES):
            # As the server's decoder would.
            turned = turned.convert("RGBA" if "a" in turned.mode.lower() else "RGB")
        if turned.mode in TIFF_MODES:
            turned.save(stream, "TIFF")
        else:
            turned.save(stream, "PNG", compress_level=1)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"cannot be read ({error})") from error
    return stream.getvalue()


def read(path: Path) -> bytes:
    """A file's bytes, of a smaller picture where the server would refuse their size. Raises DataError."""
    try:
        if path.is_dir():
            raise DataError("is a folder; give a folder alone, not among images")
        return limited(own_bytes(path))
    except DataError as error:
        raise DataError(str(error).removeprefix(f"{path}: ")) from error
    except ValueError as error:  # a NUL in its name
        raise DataError(f"cannot be read ({error})") from error


def limited(data: bytes) -> bytes:
    if len(data) > MAX_BYTES:
        raise DataError(too_large(len(data)))
    return data


def too_large(size: int) -> str:
    return f"{size / 1e6:.0f} MB, the limit is {MAX_BYTES / 1e6:.0f} MB"


def name_of(item: Item, number: int) -> str:
    if isinstance(item, (Path, str)):
        return str(item)
    if isinstance(item, (bytes, np.ndarray, Image.Image)):
        return f"item {number}"
    return item.name


def grey_png() -> bytes:
    """A small valid image for probing."""
    stream = io.BytesIO()
    Image.new("L", (16, 16), 128).save(stream, "PNG")
    return stream.getvalue()
