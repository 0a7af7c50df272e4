"""Looking at every image of a data set once: what it is, and what is suspicious about it."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from jepack.decoding import dicom, kind_of, preprocess, to_eight_bits
from jepack.errors import DataError
from jepack.sources import ImageFile
from training.data import Print, Range, print_of, range_of

HUGE_PIXELS = 12_000_000
TINY_SIDE = 16
EXTENSIONS = {
    "jpeg": (".jpg", ".jpeg"), "tiff": (".tif", ".tiff"), "fits": (".fits", ".fit"), "dicom": dicom.SUFFIXES,
}  # fmt: skip


@dataclass
class Look:
    """What one image is. `problem` means that training skips it; `doubts` are worth a look."""

    file: ImageFile
    format: str = ""
    height: int = 0
    width: int = 0
    channels: int = 0
    depth: str = ""  # such as uint16
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0  # of finite values, in the file's own units
    std: float = 0.0
    sha: str = ""
    needs_window: bool = (
        False  # its values have no fixed meaning: training skips it without --window
    )
    range: Range | None = None  # how it fills its depth
    print: Print | None = None  # to find copies by their looks
    problem: str | None = None
    doubts: list[str] = field(default_factory=list)


def look_at(file: ImageFile, channels: int | None = None) -> Look:
    look = Look(file)
    try:
        examine(file, look, channels)
    except Exception as error:  # of whatever kind: it is this image's, and ends nothing
        memory = isinstance(error, MemoryError)
        look.problem = "needs more memory than there is" if memory else str(error) or repr(error)
    return look


def examine(file: ImageFile, look: Look, channels: int | None) -> None:
    try:
        data = file.read()
    except DataError as error:
        reason = str(error).removeprefix(f"{file.path}: ").removeprefix(f"{file.name}: ")
        look.problem = in_own_options(reason)
        return
    look.sha = hashlib.sha256(data).hexdigest()
    try:
        raw = preprocess.read_raw(data, channels, windowed=False)
    except DataError as error:
        look.problem = in_own_options(str(error).removeprefix("image: "))
        return
    values = raw.measured
    look.range = range_of(raw)
    look.height, look.width, look.channels = (int(n) for n in values.shape)
    look.depth = str(raw.values.dtype)
    look.format = kind_of(data)
    if look.format in ("picture", "tiff"):
        doubts_of_picture(data, look)
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if finite.size:
        look.low, look.high = float(finite.min()), float(finite.max())
        look.mean, look.std = float(finite.mean()), float(finite.std())
    if look.range.missing and raw.nodata is not None:
        look.doubts.append(f"{look.range.missing:.1%} of its values are nodata")
    elif finite.size < values.size:
        look.doubts.append(f"{1 - finite.size / values.size:.1%} of its values are not numbers")
    doubts_of_values(look)
    try:
        to_eight_bits(raw, None)
    except DataError:
        look.needs_window = True
    try:
        look.print = print_of(to_eight_bits(raw, ((look.low, max(look.high, look.low + 1)),)))
    except DataError as error:
        look.problem = str(error)


def in_own_options(reason: str) -> str:
    """The decoder's advice names training's knobs; `inspect` has options for them."""
    return reason.replace("--set channels=", "--channels ").replace("--set tile=", "--tile ")


def doubts_of_picture(data: bytes, look: Look) -> None:
    """What Pillow knows beyond the pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data)) as image:
                look.format = str(image.format).lower()
                mode, frames, info = image.mode, getattr(image, "n_frames", 1), image.info
                turned = image.getexif().get(0x0112, 1) != 1
        except Exception:  # it was decoded by another reader
            return
    if mode == "CMYK":
        look.doubts.append("CMYK: becomes RGB without its colour profile")
    if "A" in mode or "transparency" in info:
        look.doubts.append("has transparency: laid over white")
    if frames > 1 and look.file.part is None:
        look.doubts.append(f"holds {frames} frames or pages: the first is read")
    if turned:
        look.doubts.append("is stored turned (EXIF): set upright")
    if mode == "P":
        look.doubts.append("has a palette: becomes RGB")


def doubts_of_values(look: Look) -> None:
    if look.height * look.width > HUGE_PIXELS:
        look.doubts.append(f"huge: {look.width} x {look.height} px")
    if min(look.height, look.width) < TINY_SIDE:
        look.doubts.append(f"tiny: {look.width} x {look.height} px")
    elif max(look.height, look.width) > 8 * min(look.height, look.width):
        look.doubts.append(f"very long: {look.width} x {look.height} px")
    if look.high == look.low:
        look.doubts.append("every pixel has the same value")
    suffix = look.file.path.suffix.lower()
    fits = EXTENSIONS.get(look.format, (f".{look.format}",))
    if look.file.part is None and suffix and look.format != "picture" and suffix not in fits:
        look.doubts.append(f"is called {suffix} but is {look.format}")


def survey(
    files: Sequence[ImageFile],
    workers: int,
    on_progress: Callable[[int, int], None],
    channels: int | None = None,
) -> list[Look]:
    """Every image looked at, copies marked. Pixels are not kept."""
    found: list[Look] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for start in range(0, len(files), 64):
            block = files[start : start + 64]
            found.extend(pool.map(look_at, block, [channels] * len(block)))
            on_progress(len(found), len(files))
    mark_copies(found)
    return found


def mark_copies(looks: Iterable[Look]) -> None:
    """Note which files are byte for byte, or picture for picture, the same as an earlier one.

    By looks only among equal gradient hashes, so that the time grows with the number of images, not
    its square: a strongly changed copy may be missed.
    """
    bytes_seen: dict[str, Look] = {}
    pictures_seen: dict[int, list[Look]] = {}
    for look in looks:
        if look.sha and look.sha in bytes_seen:
            look.doubts.append(f"same bytes as {bytes_seen[look.sha].file.name}")
            continue
        bytes_seen[look.sha] = look
        if look.print is None or look.print.plain:
            continue
        near = pictures_seen.setdefault(look.print.hash, [])
        for other in near:
            if other.print is not None and look.print.same_as(other.print):
                look.doubts.append(f"looks the same as {other.file.name}")
                break
        near.append(look)
