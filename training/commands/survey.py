"""Looking at every image of a data set once: what it is, and what is suspicious about it."""

from __future__ import annotations

import functools
import hashlib
import io
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from jepack.decoding import dicom, kind_of, preprocess, to_eight_bits
from jepack.errors import DataError
from jepack.sources import ENDED, ImageFile, in_blocks
from training.data import Range, Thumbprint, range_of, thumbprint_of

HUGE_PIXELS = 12_000_000
TINY_SIDE = 16
EXTENSIONS = {
    "jpeg": (".jpg", ".jpeg"), "tiff": (".tif", ".tiff"), "fits": (".fits", ".fit"), "dicom": dicom.SUFFIXES,
}  # fmt: skip


@dataclass
class ImageRecord:
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
    thumbprint: Thumbprint | None = None  # to find copies by their looks
    problem: str | None = None
    doubts: list[str] = field(default_factory=list)


def record_of(file: ImageFile, channels: int | None = None) -> ImageRecord:
    record = ImageRecord(file)
    try:
        examine(file, record, channels)
    except Exception as error:  # of whatever kind: it is this image's, and ends nothing
        memory = isinstance(error, MemoryError)
        record.problem = "needs more memory than there is" if memory else str(error) or repr(error)
    return record


def examine(file: ImageFile, record: ImageRecord, channels: int | None) -> None:
    try:
        data = file.read()
    except DataError as error:
        reason = str(error).removeprefix(f"{file.path}: ").removeprefix(f"{file.name}: ")
        record.problem = in_own_options(reason)
        return
    record.sha = hashlib.sha256(data).hexdigest()
    try:
        raw = preprocess.read_raw(data, channels, windowed=False)
    except DataError as error:
        record.problem = in_own_options(str(error))
        return
    values = raw.measured
    record.range = range_of(raw)
    record.height, record.width, record.channels = (int(n) for n in values.shape)
    record.depth = str(raw.values.dtype)
    record.format = kind_of(data)
    if record.format in ("picture", "tiff"):
        doubts_of_picture(data, record)
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if finite.size:
        record.low, record.high = float(finite.min()), float(finite.max())
        record.mean, record.std = float(finite.mean()), float(finite.std())
    if record.range.missing and raw.nodata is not None:
        record.doubts.append(f"{record.range.missing:.1%} of its values are nodata")
    elif finite.size < values.size:
        record.doubts.append(f"{1 - finite.size / values.size:.1%} of its values are not numbers")
    doubts_of_values(record)
    try:
        to_eight_bits(raw, None)
    except DataError:
        record.needs_window = True
    try:
        record.thumbprint = thumbprint_of(
            to_eight_bits(raw, ((record.low, max(record.high, record.low + 1)),))
        )
    except DataError as error:
        record.problem = str(error)


def in_own_options(reason: str) -> str:
    """The decoder's advice names training's knob; `inspect` has an option for it."""
    return re.sub(
        r"Training is told: --set channels=(\d+).*", r"Say how many: --channels \1", reason
    )


def doubts_of_picture(data: bytes, record: ImageRecord) -> None:
    """What Pillow knows beyond the pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data)) as image:
                record.format = str(image.format).lower()
                mode, frames, info = image.mode, getattr(image, "n_frames", 1), image.info
                turned = image.getexif().get(0x0112, 1) != 1
        except Exception:  # it was decoded by another reader
            return
    if mode == "CMYK":
        record.doubts.append("CMYK: becomes RGB without its colour profile")
    if "A" in mode or "transparency" in info:
        record.doubts.append("has transparency: laid over white")
    if frames > 1 and record.file.part is None:
        record.doubts.append(f"holds {frames} frames or pages: the first is read")
    if turned:
        record.doubts.append("is stored turned (EXIF): set upright")
    if mode == "P":
        record.doubts.append("has a palette: becomes RGB")


def doubts_of_values(record: ImageRecord) -> None:
    if record.height * record.width > HUGE_PIXELS:
        record.doubts.append(f"huge: {record.width} x {record.height} px")
    if min(record.height, record.width) < TINY_SIDE:
        record.doubts.append(f"tiny: {record.width} x {record.height} px")
    elif max(record.height, record.width) > 8 * min(record.height, record.width):
        record.doubts.append(f"very long: {record.width} x {record.height} px")
    if record.high == record.low:
        record.doubts.append("every pixel has the same value")
    suffix = record.file.path.suffix.lower()
    fits = EXTENSIONS.get(record.format, (f".{record.format}",))
    if record.file.part is None and suffix and record.format != "picture" and suffix not in fits:
        record.doubts.append(f"is called {suffix} but is {record.format}")


def survey(
    files: Sequence[ImageFile],
    workers: int,
    on_progress: Callable[[int, int], None],
    channels: int | None = None,
) -> list[ImageRecord]:
    """Every image looked at, copies marked. Pixels are not kept."""
    records: list[ImageRecord] = []
    work = functools.partial(record_of, channels=channels)
    for block in in_blocks(files, work, ended, workers):
        records += block
        on_progress(len(records), len(files))
    mark_copies(records)
    return records


def ended(file: ImageFile) -> ImageRecord:
    """As `record_of`, of an image at which that ends its process."""
    return ImageRecord(file, problem=ENDED)


def mark_copies(records: Iterable[ImageRecord]) -> None:
    """Note which files are byte for byte, or picture for picture, the same as an earlier one.

    By looks only among equal gradient hashes, so that the time grows with the number of images, not
    its square: a strongly changed copy may be missed.
    """
    bytes_seen: dict[str, ImageRecord] = {}
    pictures_seen: dict[int, list[ImageRecord]] = {}
    for record in records:
        if record.sha and record.sha in bytes_seen:
            record.doubts.append(f"same bytes as {bytes_seen[record.sha].file.name}")
            continue
        bytes_seen[record.sha] = record
        if record.thumbprint is None or record.thumbprint.plain:
            continue
        near = pictures_seen.setdefault(record.thumbprint.hash, [])
        for other in near:
            if other.thumbprint is not None and record.thumbprint.same_as(other.thumbprint):
                record.doubts.append(f"looks the same as {other.file.name}")
                break
        near.append(record)
