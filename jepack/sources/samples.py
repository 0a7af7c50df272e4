"""Which members of a shard are one sample, and which picture of it is the image.

WebDataset's rule: the files of a sample share what comes before the first dot of their name. Where names
hold dots of their own (`2024.05.03_0001.png`) that would make one sample of many pictures; they are told
apart here.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from jepack.decoding import SUFFIXES
from jepack.errors import DataError
from jepack.names import examples, kept, valid
from jepack.sources.choosing import named_aside

PACKED = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4", b"PK\x03\x04": "zip", b"PK\x05\x06": "zip", b"7z\xbc\xaf": "7-Zip",
    b"Rar!": "RAR",
}  # fmt: skip
PACKED_NAMES = (
    ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".tar.lz4",
    ".tar.z", ".zip", ".7z", ".rar",
)  # fmt: skip
WAY_OUT = (
    "the images of a shard are read by place, which needs a plain tar. Unpack it once to .tar, or to a "
    "folder (JPEG and PNG do not get smaller by packing)"
)
CLASSES = ("label", "class", "cls")  # of a sample's .json
WORD = re.compile(r"[A-Za-z_]+")  # what a component is called: a.mask.png


@dataclass(frozen=True)
class Sample:
    """One image of a shard: where its bytes lie, and what is said of it."""

    offset: int
    size: int
    label: str | None = None
    columns: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Member:
    stem: str  # the name without its last ending
    suffix: str  # .png
    info: tarfile.TarInfo
    again: int  # how many members of this name came before


def samples(path: Path) -> tuple[list[Sample], list[str]]:
    """(images in the order of the tar, sentences on what was left out). Raises DataError."""
    refuse_packed(path)
    notes: list[str] = []
    try:
        with tarfile.open(path, "r:", ignore_zeros=True) as archive:
            groups = grouped(archive, path)
            repeated = components(groups)
            first = {key_of(members): members for members in reversed(groups)}
            chosen = [
                (picture, members)
                for members in groups
                for picture in pictures_of(members, repeated)
            ]
            chosen.sort(key=lambda pair: pair[0].info.offset_data)
            images = []
            for picture, members in chosen:
                label, columns = label_of(archive, picture, [*members, *first[key_of(members)]])
                images.append(Sample(picture.info.offset_data, picture.info.size, label, columns))
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{path}: not a readable shard ({error})") from error
    taken = {picture.info.offset_data for picture, _ in chosen}
    every = [member for members in groups for member in members]
    lost = [m for m in every if m.suffix in SUFFIXES and m.info.offset_data not in taken]
    left = [member.info.name for member in lost]
    if left:
        whose = {id(member) for member in lost}
        stay = [
            picture.info.name
            for picture, members in chosen
            if any(id(member) in whose for member in members)
        ]
        notes.append(
            f"{len(left)} pictures belong to another picture of their sample and are left out: "
            f"{examples(left)}; the images are {examples(stay)}"
        )
    if again := [
        member.info.name for member in every if member.again and member.suffix in SUFFIXES
    ]:
        notes.append(
            f"{len(again)} names come again, each is an image of its own: {examples(again)}"
        )
    if texts := sum(member.suffix == ".txt" for member in every):
        notes.append(f"{texts} .txt files are captions, not labels (those are .cls, or .json)")
    other = Counter(member.suffix for member in every)
    if not images and other:
        notes.append(f"holds no pictures, only {examples(other)}")
    return images, notes


def is_packed(name: str) -> bool:
    """Whether a file or an address is called like a packed archive."""
    return name.partition("?")[0].lower().endswith(PACKED_NAMES)


def refuse_packed(path: Path) -> None:
    """Raises DataError for an archive that is packed, by its first bytes, or only called so."""
    try:
        with path.open("rb") as stream:
            head = stream.read(6)
    except OSError as error:
        raise DataError(f"{path}: not a readable shard ({error.strerror})") from error
    for magic, kind in PACKED.items():
        if head.startswith(magic):
            raise DataError(f"{path}: packed with {kind}; {WAY_OUT}")
    if is_packed(path.name):
        raise DataError(
            f"{path}: called packed, but it is not; where it is a plain tar, name it .tar"
        )


def grouped(archive: tarfile.TarFile, path: Path) -> list[list[Member]]:
    """Members by WebDataset's key; a name that comes again begins a group of its own.

    Tars written one after the other are read to the last. Raises DataError where bytes belong to no member.
    """
    groups: dict[tuple[str, int], list[Member]] = {}
    seen: Counter[str] = Counter()
    for info in every_member(archive, path):
        folder, _, name = info.name.rpartition("/")
        if not info.isfile() or name.startswith("."):
            continue
        again = seen[info.name]
        seen[info.name] += 1
        head, dot, ending = name.rpartition(".")
        stem, suffix = (f"{folder}/{head}", f".{ending.lower()}") if dot else (info.name, "")
        key = f"{folder}/{name.partition('.')[0]}"
        groups.setdefault((key, again), []).append(Member(stem, suffix, info, again))
    return list(groups.values())


def every_member(archive: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    """tarfile passes over a header it cannot read, and ends at one that is cut, without a word."""
    end = 0  # where the last member's padded data ended, B
    with path.open("rb") as stream:
        for info in archive:
            need_nothing(stream, end, info.offset)
            yield info
            end = archive.offset
        need_nothing(stream, end, path.stat().st_size)


def need_nothing(stream: BinaryIO, start: int, stop: int) -> None:
    """Between members lie zeros and headers about the whole tar. Raises tarfile.ReadError of others."""
    while start < stop:
        stream.seek(start)
        block = stream.read(min(tarfile.BLOCKSIZE, stop - start))
        if block.strip(b"\0"):
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError:
                info = None
            if info is None or info.type != tarfile.XGLTYPE:
                raise tarfile.ReadError(
                    f"from byte {start:,} on it is damaged or cut: no header of a file is there. Write "
                    "or fetch it anew"
                )
            start += max(0, -(-info.size // tarfile.BLOCKSIZE)) * tarfile.BLOCKSIZE
        start += tarfile.BLOCKSIZE


def key_of(members: list[Member]) -> str:
    folder, _, name = members[0].stem.rpartition("/")
    return f"{folder}/{name.partition('.')[0]}"


def pictures_of(members: list[Member], repeated: set[str]) -> list[Member]:
    """The pictures of a group that are images, the others being parts of them."""
    pictures = sorted((m for m in members if m.suffix in SUFFIXES), key=lambda m: len(m.stem))
    key = key_of(members)
    # a.rgb.png, a.gt.png: what is called a mask or a label is the image only where nothing else is
    pictures = [one for one in pictures if not is_aside(one, key)] or pictures
    if len(pictures) < 2:
        return pictures
    own = [picture for picture in pictures if picture.stem == key]
    if own:  # a.png: a.mask.png is a part of it
        return own[:1]
    chosen: list[Member] = []
    for picture in pictures:
        of = [one for one in chosen if picture.stem.startswith(f"{one.stem}.")]
        if not any(WORD.fullmatch(picture.stem[len(one.stem) + 1 :]) for one in of):
            chosen.append(picture)
    endings = {picture.stem[len(key) + 1 :] for picture in chosen}
    if all(map(WORD.fullmatch, endings)) and endings <= repeated:
        return chosen[:1]  # a.left.png, a.right.png in every sample: one is taken
    return chosen


def is_aside(picture: Member, key: str) -> bool:
    """Whether the last word between key and ending says mask, label, ... (see choosing.ASIDE)."""
    return named_aside(picture.stem[len(key) + 1 :].rpartition(".")[2])


def components(groups: list[list[Member]]) -> set[str]:
    """What stands between key and ending in at least two samples."""
    counts: Counter[str] = Counter()
    for members in groups:
        key = key_of(members)
        counts.update({m.stem[len(key) + 1 :] for m in members if m.suffix in SUFFIXES})
    return {ending for ending, count in counts.items() if count > 1}


def label_of(
    archive: tarfile.TarFile, picture: Member, members: list[Member]
) -> tuple[str | None, dict[str, str]]:
    """The picture's class and what else is said of it: by files of its own name, else of its key's."""

    def content(suffix: str) -> str | None:
        stems = (picture.stem, key_of(members))
        fitting = (m for stem in stems for m in members if (m.stem, m.suffix) == (stem, suffix))
        member = next(fitting, None)
        stream = None if member is None else archive.extractfile(member.info)
        return None if stream is None else stream.read().decode(errors="replace").strip()

    told: Any = None
    text = content(".json")
    if text is not None:
        try:
            told = json.loads(text)
        except ValueError:
            told = None
    told = told if isinstance(told, dict) else {}
    columns = {
        valid(str(k)): valid(str(v)) for k, v in told.items() if isinstance(v, (str, int, float))
    }
    label = content(".cls")
    name = next((name for name in CLASSES if columns.get(name)), None)
    if label is None and name is not None:
        label = columns.pop(name)
    return (kept(label) if label else None), columns
