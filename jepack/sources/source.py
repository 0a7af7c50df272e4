"""Where images come from, as a person names it: parsed at the command line, and a value from there on."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from jepack.decoding import need
from jepack.errors import ConfigError, DataError
from jepack.files import cache_root
from jepack.names import kept
from jepack.sources.folders import AS_CLASSES
from jepack.sources.reading import image_column
from jepack.sources.tables import SUFFIXES as TABLES

Kind = Literal["folder", "manifest", "file", "shards", "hub"]
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Source:
    """A folder of images; a manifest that lists them; a file that is an image or holds many (some folders are
    one to their library, such as zarr); shards (.tar) by range or address; a data set of the Hub (`hf:`).
    """

    kind: Kind
    text: str  # as it was named
    path: Path  # where that is; of shards and data sets: its words as a path, which nothing need lie at
    choice: str = ""  # after `#`: what to take of it, or how to read it

    @classmethod
    def of(cls, data: Source | Path | str) -> Source:
        """Raises DataError where nothing is, ConfigError for a `#CHOICE` that means nothing."""
        if isinstance(data, Source):
            return data
        text = str(data)
        if text.startswith("hf:"):
            return cls("hub", text, Path(text))
        if "://" in text or RANGE.search(text):
            return cls("shards", text, Path(text))
        path, choice = chosen(text)
        if path.is_dir():
            return cls("file" if is_one(path) else "folder", text, path, choice)
        if path.is_file():
            return cls("manifest" if lists_images(path) else "file", text, path, choice)
        raise DataError(f"{path}: no such folder of images, nor a manifest")

    def __str__(self) -> str:
        return self.text

    @property
    def away(self) -> bool:
        """Whether it lies elsewhere: what is taken from it is kept in the cache."""
        return self.kind == "hub" or "://" in self.text

    @property
    def base(self) -> Path:
        """The folder that names of its images count from: the data folder, or that of a manifest or file.

        For what comes from elsewhere, the folder it is kept in.
        """
        if self.away:
            return cache_root()
        return self.path if self.kind == "folder" else self.path.parent

    @property
    def below(self) -> str:
        """What names it below `base`: "" for a folder, `list.csv`, `scan.h5#/x`, `#classes`."""
        name = "" if self.kind == "folder" else self.path.name
        return name + (f"#{self.choice}" if self.choice else "")

    @property
    def splits(self) -> bool:
        """Whether folders called train, val and test are the split."""
        return self.choice != AS_CLASSES

    @property
    def arrays(self) -> list[str]:
        """Those to take of HDF5 and zarr; none = all that look like images."""
        return self.choice.split(",") if self.choice.startswith("/") else []

    @property
    def shards(self) -> list[str]:
        """The files or addresses of `{000..012}`, in order."""
        match = RANGE.search(self.text)
        if match is None:
            return [self.text]
        first, last = match.groups()
        numbers = (str(n).zfill(len(first)) for n in range(int(first), int(last) + 1))
        return [self.text.replace(match.group(0), number) for number in numbers]

    def absolute(self) -> Source:
        """The same, whatever the working folder is."""
        return self if self.away else replace(self, path=self.path.absolute())


def chosen(text: str) -> tuple[Path, str]:
    """`DATA#CHOICE` in its two halves; the second is "" where there is none, and in a name that exists."""
    path = Path(text)
    if "#" not in text or path.exists():
        return path, ""
    for mark in re.finditer("#", text):
        head, choice = text[: mark.start()], text[mark.end() :]
        if head and Path(head).exists():
            if choice != AS_CLASSES and not choice.startswith("/"):
                raise ConfigError(
                    f"{kept(text)}: after # comes {AS_CLASSES} (folders called train, val or test are "
                    f"classes) or /NAME (arrays of HDF5 or zarr, parted by commas); found {choice!r}"
                )
            return Path(head), choice
    return path, ""


def is_one(folder: Path) -> bool:
    """Whether a folder is one file to its library: zarr, or a data set saved by `datasets`."""
    return folder.is_dir() and any(
        (folder / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray", "state.json")
    )


def lists_images(path: Path) -> bool:
    """Whether a file is a manifest. A parquet file is one unless it holds encoded images itself."""
    suffix = path.suffix.lower()
    return suffix in TABLES and not (suffix == ".parquet" and holds_images(path))


def holds_images(path: Path) -> bool:
    """Whether a parquet file has a column of encoded images rather than of paths."""
    return image_column(need("pyarrow.parquet", "datasets").read_schema(path)) is not None
