"""Finding images: folders, manifests, and files that hold many. No decoding here; see preprocess.py.

Whatever the source, an image is an `ImageFile` whose `read()` gives bytes that preprocess.decode takes.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jepack.errors import DataError
from jepack.files import cache_root
from jepack.preprocess import SUFFIXES

Box = tuple[float, float, float, float]  # left, top, width, height, px
MANIFEST = "manifest.csv"
SHARDS = re.compile(r"://|\{\d+\.\.\d+\}")  # an address, or a range of files
NOTHING = ("", "nan", "none", "null")


@dataclass(frozen=True)
class ImageFile:
    """One image; `label` is its class, by its folder's name or the manifest's column."""

    path: Path
    label: str | None = None
    part: str | None = None  # which image of a file that holds many; see containers.py
    columns: dict[str, str] = field(default_factory=dict, compare=False)  # the manifest's others
    box: Box | None = None  # the region that matters
    mask: Path | None = None  # a picture of its shape, not 0 where something matters

    def read(self) -> bytes:
        """The image's own bytes; npy where it is a slice of something larger. Raises DataError."""
        if self.part is None:
            try:
                return self.path.read_bytes()
            except OSError as error:
                raise DataError(f"{self.path}: cannot be read ({error.strerror})") from error
        from jepack.parts import read_part

        return read_part(self.path, self.part)

    @property
    def name(self) -> str:
        return str(self.path) if self.part is None else f"{self.path}#{self.part}"

    def name_below(self, base: Path) -> str:
        """`cat/a.png`, `../b.png`, `scan.h5#slice=/x:3`: the name counted from `base` (see base_of)."""
        path = Path(os.path.relpath(self.path, base)).as_posix()
        return path if self.part is None else f"{path}#{self.part}"


def find_images(
    data: Path | str, *, parts: bool = False, tile: int = 0, stride: int = 0
) -> list[ImageFile]:
    """The images of a folder (sorted; the first level names the class) or of a manifest, .csv or .parquet.

    A folder's own manifest.csv adds its columns. With `parts`, files that hold many images give each of
    them: pages, frames, slices, members of a .tar, rows of a .parquet; `tile` > 0 cuts TIFFs larger
    than it into windows of that side, px, every `stride`. Hidden files are passed over. Raises
    DataError when there are none.
    """
    from jepack import containers

    text = source_name(data)
    if parts and text.startswith("hf:"):
        return containers.hub_images(text)
    if parts and SHARDS.search(text):
        from jepack.shards import find_shards

        return find_shards(text)
    data = Path(data)
    if data.is_file():
        if data.suffix.lower() == ".csv" or (
            data.suffix.lower() == ".parquet" and not containers.holds_images(data)
        ):
            found = read_manifest(data)
        else:
            found = [ImageFile(data)]
    elif data.is_dir():
        found = [ImageFile(data)] if containers.is_folder(data) else list(walk(data, parts))
        if (data / MANIFEST).is_file():
            found = with_columns(found, data)
    else:
        raise DataError(f"{data}: no such folder of images, nor a manifest")
    if parts:
        found = [part for file in found for part in containers.expand(file, tile, stride or tile)]
    elif any(containers.is_container(file.path) for file in found):
        raise DataError(
            f"{data}: holds many images in one file, which this command does not take; "
            "training, inspect, views and probe do"
        )
    if not found:
        raise DataError(
            f"{data}: no images found; need files ending in {', '.join(SUFFIXES)}"
            + (f" or {', '.join(containers.SUFFIXES)}" if parts else "")
        )
    return found


def is_address(data: Path | str) -> bool:
    """Whether it names shards on the web (also after a Path has halved the slashes) or a data set's name."""
    return re.match(r"https?:/|hf:", str(data)) is not None


def source_name(data: Path | str) -> str:
    """A source's name; a Path halves the slashes of an address."""
    return re.sub(r"^(https?):/(?!/)", r"\1://", str(data))


def base_of(data: Path | str) -> Path:
    """The folder that names of its images count from: the data folder, or that of a manifest or file.

    For what comes from elsewhere, the folder it is kept in.
    """
    from jepack import containers

    if is_address(data):
        return cache_root()
    data = Path(data)
    return data if data.is_dir() and not containers.is_folder(data) else data.parent


def walk(folder: Path, parts: bool) -> Iterator[ImageFile]:
    from jepack import containers

    wanted = SUFFIXES + (containers.SUFFIXES if parts else ())
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if parts:
            inside = [name for name in folders if containers.is_folder(Path(root) / name)]
            folders[:] = [name for name in folders if name not in inside]
            names = [*names, *inside]
        for name in sorted(names):
            path = Path(root) / name
            if name.startswith(".") or not (name.lower().endswith(wanted) or path.is_dir()):
                continue
            levels = path.relative_to(folder).parts
            yield ImageFile(path, levels[0] if len(levels) > 1 else None)


def passed_over(folder: Path) -> dict[str, int]:
    """Endings of files of a folder that no reader here takes, most first: {".heic": 120}."""
    from jepack import containers

    found: Counter[str] = Counter()
    for root, folders, names in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not containers.is_folder(Path(root) / name)
        ]
        found.update(
            Path(name).suffix.lower() or "no ending"
            for name in names
            if not name.startswith(".")
            and not name.lower().endswith(SUFFIXES + containers.SUFFIXES)
        )
    return dict(found.most_common())


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a .csv or .parquet file, every value as text. Raises DataError."""
    try:
        if path.suffix.lower() == ".parquet":
            from jepack.formats import need

            table = need("pyarrow.parquet", "datasets").read_table(path)
            return [
                {str(k): "" if v is None else str(v) for k, v in row.items()}
                for row in table.to_pylist()
            ]
        text = path.read_text(encoding="utf-8-sig")
        return [
            {str(k): (v or "").strip() for k, v in row.items() if k is not None}
            for row in csv.DictReader(io.StringIO(text))
        ]
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise DataError(f"{path}: not a readable table ({error})") from error


def read_manifest(path: Path) -> list[ImageFile]:
    """One image per row: `path` (relative to the manifest), optional `label`, `box`, `mask`, and others."""
    rows = read_table(path)
    if not rows:
        raise DataError(f"{path}: the manifest has no rows")
    if "path" not in rows[0]:
        raise DataError(
            f"{path}: a manifest needs a column `path`; found {', '.join(rows[0]) or 'none'}"
        )
    return [
        from_row(path.parent, row["path"], row, f"{path}, row {n}") for n, row in enumerate(rows, 2)
    ]


def from_row(base: Path, name: str, row: dict[str, Any], where: str) -> ImageFile:
    label = row.get("label") or None
    if label is not None and label.lower() in NOTHING:
        label = None
    others = {k: v for k, v in row.items() if k not in ("path", "label", "box", "mask", "part")}
    box = parse_box(row.get("box"), where)
    mask = row.get("mask") or ""
    shape = base / mask if mask.lower() not in NOTHING else None
    return ImageFile(base / name, label, row.get("part") or None, others, box, shape)


def parse_box(text: str | None, where: str) -> Box | None:
    """ "left top width height" in px, parted by spaces, commas or semicolons."""
    if text is None or text.strip().lower() in NOTHING:
        return None
    try:
        numbers = [
            float(part) for part in text.strip("[]() ").replace(",", " ").replace(";", " ").split()
        ]
        left, top, width, height = numbers
        if width > 0 and height > 0:
            return left, top, width, height
    except ValueError:
        pass
    raise DataError(f"{where}: box is {text!r}, need left top width height in px, both sizes > 0")


def with_columns(files: list[ImageFile], folder: Path) -> list[ImageFile]:
    """What the folder's manifest says of each file; files it does not name stay as they are."""
    rows = {row.get("path", ""): row for row in read_table(folder / MANIFEST)}
    found = []
    for file in files:
        row = rows.get(file.path.relative_to(folder).as_posix())
        if row is None:
            found.append(file)
            continue
        told = from_row(folder, row["path"], row, f"{folder / MANIFEST}, {row['path']}")
        found.append(replace(told, path=file.path, label=told.label or file.label, part=None))
    return found
