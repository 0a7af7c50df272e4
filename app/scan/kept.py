"""The copy of an index's vectors that is searched: files beside the table, read as they lie (mmap).

A copy is of one version of the table and used for that one alone. It is written under a temporary name and
takes its own when it is whole; what is missing, damaged or of another version is made again, never trusted.

N rows, B rows of a block, D dimensions.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from app.scan.codes import Book, Floats, Rows
from jepack.files import new_folder, write_json
from jepack.measures import unit

PREFIX = "codes-"  # and the version of the table
ABOUT, LOCK = "about.json", ".codes.lock"
SCHEMA = 1
CODE, VECTOR, OTHERS = "code.npy", "vector.npy", "rows.npz"
Numbers = npt.NDArray[np.uint64]
Blocks = Iterable[
    tuple[Numbers, npt.NDArray[Any]]
]  # (the engine's numbers of rows [B], vectors [B, D])


@dataclass(frozen=True)
class Copy:
    """Every row of one version of a table."""

    book: Book
    rows: Rows
    number: Numbers  # [N], the engine's own of each row
    vector: Floats  # [N, D], at length 1
    base_most: float  # the largest |base|

    def places(self, numbers: Numbers) -> npt.NDArray[np.int64]:
        """Where the rows of these numbers stand, ascending."""
        return np.flatnonzero(np.isin(self.number, numbers))


def write(
    folder: Path,
    version: int,
    count: int,
    sample: npt.NDArray[Any],
    blocks: Blocks,
    on_progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Make the copy of `version`, which holds `count` rows; those of other versions are removed.

    `sample`: vectors that the steps of the codes are made from. One process at a time: see `LOCK`.
    """
    book, own = Book.of(sample), place(folder, version)
    shape, done, parts = (count, len(book.mean_D)), 0, []
    with new_folder(own) as stage:
        # Written in order, not through mmap: a full disk is an error then, and no signal.
        with (stage / CODE).open("wb") as codes, (stage / VECTOR).open("wb") as vectors:
            begin(codes, np.int8, shape)
            begin(vectors, np.float32, shape)
            for numbers, vectors_BD in blocks:
                rows = book.encode(vectors_BD)
                codes.write(rows.code.tobytes())
                vectors.write(unit(vectors_BD).astype(np.float32).tobytes())
                parts.append((rows.base, rows.error, rows.length, numbers))
                done += len(numbers)
                on_progress(done / count)
        names = ("base", "error", "length", "number")
        others: dict[str, Any] = {"mean": book.mean_D, "step": book.step_D}
        others |= zip(names, map(np.concatenate, zip(*parts, strict=True)), strict=True)
        np.savez(stage / OTHERS, **others)
        sums = {name: checksum(stage / name) for name in (CODE, VECTOR, OTHERS)}
        about = {"schema": SCHEMA, "version": version, "count": count, "crc32": sums}
        write_json(stage / ABOUT, about)
    killed = folder.glob(f".{PREFIX}*.tmp")
    for other in {*folder.glob(f"{PREFIX}*"), *killed} - {own}:
        shutil.rmtree(other, ignore_errors=True)


def begin(stream: BinaryIO, kind: type, shape: tuple[int, int]) -> None:
    """The head of a .npy file."""
    about = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(stream, about)


def adopt(folder: Path, version: int, now: int) -> None:
    """Let the copy of `version` be that of version `now`, whose rows are the same: an index is one too."""
    old, new = place(folder, version), place(folder, now)
    if version == now or not old.is_dir():
        return
    with new_folder(new, start_from=old) as stage:
        about = json.loads((old / ABOUT).read_text())
        write_json(stage / ABOUT, {**about, "version": now})
    shutil.rmtree(old, ignore_errors=True)


def open_copy(folder: Path, version: int, count: int) -> Copy | None:
    """The copy of this version; None where there is none, or it is not what was written."""
    own = place(folder, version)
    try:
        about = json.loads((own / ABOUT).read_text())
        if (about["schema"], about["version"], about["count"]) != (SCHEMA, version, count):
            return None
        if any(checksum(own / name) != about["crc32"][name] for name in (CODE, VECTOR, OTHERS)):
            return None
        code = np.load(own / CODE, mmap_mode="r")
        vector = np.load(own / VECTOR, mmap_mode="r")
        with np.load(own / OTHERS) as held:
            others = dict(held)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    rows = Rows(code, others["base"], others["error"], others["length"])
    book = Book(others["mean"], others["step"])
    most = float(np.abs(rows.base).max(initial=0))
    return Copy(book, rows, others["number"], vector, most)


def place(folder: Path, version: int) -> Path:
    return folder / f"{PREFIX}{version}"


def checksum(path: Path) -> int:
    """CRC-32, 7 GB/s: against disks that forget, not against forgers."""
    found = 0
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            found = zlib.crc32(block, found)
    return found
