"""Tables that name images: reading them as people write them, and finding the files they mean."""

from __future__ import annotations

import csv
import io
import math
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jepack.decoding import need
from jepack.errors import DataError
from jepack.names import examples, valid
from jepack.sources.folders import SPLITS, Notes, split_of

Row = dict[str, str]

SUFFIXES = (".csv", ".tsv", ".parquet")
PATHS = (
    "path", "file_name", "filename", "file_path", "filepath", "file", "image_path", "image",
)  # fmt: skip
KNOWN = ("label", "box", "mask", "part", "split")
OWN = ("manifest.csv", "manifest.tsv", "metadata.csv")  # a folder's own, the first one goes first
SEPARATORS = (",", ";", "\t", "|")


def read_table(path: Path) -> list[Row]:
    """Rows of a .csv, .tsv or .parquet file, every value as text, "" where a cell is empty.

    The columns jepack knows get their own names, however they are written (`Path`, `filename`, `Label`).
    Raises DataError.
    """
    try:
        rows = parquet_rows(path) if path.suffix.lower() == ".parquet" else text_rows(path)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise DataError(f"{path}: not a readable table ({error})") from error
    names = known_names(rows[0]) if rows else {}
    return [{names.get(key, key): value for key, value in row.items()} for row in rows]


def parquet_rows(path: Path) -> list[Row]:
    def text(value: Any) -> str:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        return str(value)

    table = need("pyarrow.parquet", "datasets").read_table(path)
    return [{str(k): text(v) for k, v in row.items()} for row in table.to_pylist()]


def text_rows(path: Path) -> list[Row]:
    """Of UTF-8 or, by its mark, UTF-16; a byte that is neither stays what it is, as in file names."""
    data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = data.decode("utf-16")
    else:
        text = data.decode("utf-8-sig", errors="surrogateescape")
    if text[:4].lower() == "sep=":  # how Excel is told
        text = text.partition("\n")[2]
    header = text.partition("\n")[0]
    separator = separator_of(header)
    reader = csv.DictReader(io.StringIO(text), delimiter=separator, skipinitialspace=True)
    return [
        {str(key).strip(): (value or "").strip() for key, value in row.items() if key is not None}
        for row in reader
    ]


def separator_of(header: str) -> str:
    """The one that parts off a column of paths; else the commonest."""

    def fits(separator: str) -> tuple[bool, int]:
        cells = csv.reader([header], delimiter=separator, skipinitialspace=True)
        names = [name.strip().lower() for name in next(cells, [])]
        return any(name in PATHS for name in names), len(names)

    return max(SEPARATORS, key=fits)


def known_names(columns: Iterable[str]) -> dict[str, str]:
    """{a column as it is written: the name jepack knows it by}."""
    written = {column.strip().lower(): column for column in reversed(list(columns))}
    names = {written[name]: name for name in KNOWN if name in written and name not in columns}
    path = next((written[name] for name in PATHS if name in written), None)
    return names | ({} if path is None or "path" in columns else {path: "path"})


def need_paths(rows: Sequence[Row], path: Path) -> None:
    if rows and "path" not in rows[0]:
        raise DataError(
            f"{path}: a manifest needs a column `path` (or {', '.join(PATHS[1:])}); found "
            f"{', '.join(map(valid, rows[0])) or 'none'}"
        )


def own_manifest(folder: Path, told: Notes) -> Path | None:
    """The folder's own table, its name in any case. Others are told, and so is what has no paths.

    metadata.csv, the name Hugging Face's imagefolder gives it, is one only with that format's column
    `file_name`: others call tables so that say nothing of files. Raises DataError.
    """
    try:
        names = sorted(name for name in os.listdir(folder) if name.lower() in OWN)
    except OSError:
        return None
    names.sort(key=lambda name: (OWN.index(name.lower()), name != name.lower()))
    manifest: Path | None = None
    for path in (folder / name for name in names):
        if not path.is_file():
            continue
        if manifest is not None:
            told[f"not read, {manifest.name} goes first"] = [path]
        elif path.name.lower() == OWN[-1] and not has_file_names(path):
            told["not read, it has no column `file_name`"] = [path]
        else:
            manifest = path
    return manifest


def has_file_names(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            header = stream.readline(1 << 16).decode("utf-8-sig", errors="replace")
    except OSError:
        return True  # read_table says what is wrong with it
    cells = next(csv.reader([header], delimiter=separator_of(header), skipinitialspace=True), [])
    return "file_name" in (cell.strip().lower() for cell in cells)


def tell_splits(rows: Sequence[Row], path: Path, told: Notes) -> None:
    """Values of the column `split` that are no split: a misspelt one would be learnt from unseen."""
    values = Counter(row["split"] for row in rows if row.get("split"))
    strange = [
        f"{value!r} ({count})" for value, count in values.most_common() if not split_of(value)
    ]
    if strange:
        told[
            f"{len(strange)} values of its column `split` are not understood and put their images on no "
            f"side: {examples(strange, 5)}. Known are {', '.join(SPLITS)}"
        ] = [path]


class Finder:
    """Files below a folder by names as they are written elsewhere: `.\\Cat\\A.PNG` for `cat/a.png`.

    A name that fits exactly goes first; then one with slashes for backslashes, `./` and `../` resolved; then
    letter by letter in any Unicode form, in any case, where only one file fits.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self._listings: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: str) -> Path | None:
        if not name:
            return None
        exact = self.base / name
        if exists(exact):
            return exact
        plain = os.path.normpath(name.replace("\\", "/"))
        path = self._walk(plain)
        first, _, rest = plain.partition("/")
        if path is None and rest and folded(first) == folded(self.base.absolute().name):
            path = self._walk(rest)  # counted from the folder above
        return path

    def _walk(self, name: str) -> Path | None:
        path = Path("/") if name.startswith("/") else self.base
        for part in name.strip("/").split("/"):
            step = path / part
            if not exists(step):
                fitting = self._listing(path).get(folded(part), [])
                same = [one for one in fitting if composed(one) == composed(part)]
                fitting = same or fitting
                if len(fitting) != 1:
                    return None
                step = path / fitting[0]
            path = step
        return path

    def _listing(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._listings:
            listing: dict[str, list[str]] = {}
            try:
                for name in os.listdir(folder):
                    listing.setdefault(folded(name), []).append(name)
            except OSError:
                pass
            self._listings[folder] = listing
        return self._listings[folder]


def matched(
    paths: Sequence[Path], finder: Finder, rows: Sequence[Row]
) -> tuple[dict[Path, Row], list[str], list[str]]:
    """(the row of each of the folder's files, names no file fits, names of files with several rows)."""
    folder = finder.base
    known = {os.path.abspath(path): path for path in paths}
    alone: dict[str, Path | None] = {}  # names that stand for one file, whatever its folder
    for path in paths:
        name = folded(path.name)
        alone[name] = None if name in alone else path
    said: dict[Path, Row] = {}
    unmatched, again = [], []
    for row in rows:
        name = row["path"]
        place = finder.find(name)
        path_found = None if place is None else known.get(os.path.abspath(place))
        if path_found is None and place is not None and name.startswith("/"):
            below = Path(os.path.relpath(place.resolve(), folder.resolve()))  # by another way
            path_found = known.get(os.path.abspath(folder / below))
        if path_found is None and "/" not in name:
            path_found = alone.get(folded(name))
        if path_found is None:
            unmatched.append(name)
            continue
        if path_found in said:
            again.append(name)
        said[path_found] = row
    return said, unmatched, again


def exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long a name, or one that holds a zero byte
        return False


def composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def folded(name: str) -> str:
    return composed(composed(name).casefold())
