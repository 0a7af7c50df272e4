"""A folder's files, and what its levels say: the class, or the split.

Links to folders are followed once: a folder that was or will be met by its own path is not read again
through a link, so loops end.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jepack.names import examples, kept
from jepack.sources.ours import is_ours

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "held-out", "held_out", "holdout"), "test"),
}
BESIDES = re.compile(r"(?:[ _-](?:set|images))?(?:[ _-]?(?:19|20)\d\d)?$")  # test_set, train2017
AS_CLASSES = "classes"  # DATA#classes: folders with these names are classes

Notes = dict[str, list[object]]  # a sentence -> the files it is about


def split_of(word: str) -> str:
    """train, val or test of a word as people write it; "" of any other."""
    return SPLITS.get(BESIDES.sub("", word.strip().lower(), count=1), "")


@dataclass
class Walk:
    """(folder, sorted names of what lies in it) of every folder; hidden ones are passed over, and below
    `folder` those that jepack wrote.

    `whole` says which folders are one file to their library: they are named, not entered.
    """

    folder: Path
    whole: Callable[[Path], bool]
    again: list[str] = field(default_factory=list)  # links to folders that are read elsewhere
    dead: list[str] = field(default_factory=list)  # links that lead nowhere
    closed: list[str] = field(default_factory=list)  # folders that cannot be listed
    odd: list[str] = field(default_factory=list)  # pipes, sockets, devices: reading may never end
    ours: list[str] = field(default_factory=list)  # folders that jepack wrote
    _seen: set[tuple[int, int]] | None = None

    def __iter__(self) -> Iterator[tuple[Path, list[str]]]:
        self.again, self.dead, self.closed, self.odd, self.ours = [], [], [], [], []
        self._seen = None
        return self._below(self.folder, False)

    def _below(self, root: Path, linked: bool) -> Iterator[tuple[Path, list[str]]]:
        try:
            names, folders = self._listed(root)
        except OSError as error:
            self.closed.append(f"{kept(str(root))} ({error.strerror})")
            return
        if root != self.folder and is_ours(root, names, folders):
            self.ours.append(kept(str(root)))
            return
        yield root, names
        for name in folders:
            path = root / name
            through = linked or os.path.islink(path)
            if through and not self._first(path):
                self.again.append(kept(str(path)))
                continue
            yield from self._below(path, through)

    def _listed(self, root: Path) -> tuple[list[str], list[str]]:
        """Sorted names of a folder's files and of its folders; of a million files nothing but the names."""
        names: list[str] = []
        folders: list[str] = []
        dead: list[str] = []
        odd: list[str] = []
        with os.scandir(root) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path, link = os.path.join(root, entry.name), entry.is_symlink()
                # Asking the file system only about links: a million files are a million answers.
                if os.path.isdir(path) if link else entry.is_dir(follow_symlinks=False):
                    (names if self.whole(Path(path)) else folders).append(entry.name)
                    continue
                if link and not os.path.exists(path):
                    dead.append(f"{kept(path)} -> {kept(os.readlink(path))}")
                elif not (os.path.isfile(path) if link else entry.is_file(follow_symlinks=False)):
                    odd.append(kept(path))
                    continue
                names.append(entry.name)
        self.dead += sorted(dead)
        self.odd += sorted(odd)
        return sorted(names), sorted(folders)

    def _first(self, path: Path) -> bool:
        """Whether this folder is read here for the first time, and not by its own path."""
        if self._seen is None:
            above = self.folder.resolve()
            self._seen = {identity(one) for one in (above, *above.parents)}
            for root, folders, _ in os.walk(self.folder):
                folders[:] = [
                    name
                    for name in folders
                    if not name.startswith(".") and not self.whole(Path(root) / name)
                ]
                self._seen |= {
                    identity(Path(root) / name)
                    for name in folders
                    if not os.path.islink(os.path.join(root, name))
                }
        key = identity(path)
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

    def notes(self) -> Iterator[str]:
        """What a person should know of links and folders that gave nothing, a sentence each."""
        for count, words in (
            (self.again, "links to folders that are read already, passed over"),
            (self.dead, "links that lead nowhere"),
            (self.closed, "folders that cannot be listed"),
            (self.odd, "pipes, sockets and devices, passed over"),
            (
                self.ours,
                "folders that jepack wrote (indexes, embeddings, bundles, runs), passed over",
            ),
        ):
            if count:
                yield f"{words} ({len(count)}): {examples(count)}"


def identity(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_dev, status.st_ino


Place = tuple[str | None, str]  # class, None = none; train, val, test, or "" = not told


def placing(
    parents: Mapping[tuple[str, ...], int], *, splits: bool = True
) -> tuple[Callable[[tuple[str, ...]], Place], str | None]:
    """The rule from the folders a file lies in to its class and split, and a sentence where there is a split.

    `parents`: how many files lie in which folders. The first level is the class, unless the folders of one
    level are train, val or test (see SPLITS) and nothing else, or a train and a held-out one among others.
    Then that level is the split, and the class is the level below it, or the one above it where that has
    several folders.
    """
    depth = split_level(parents) if splits else None
    if depth is None:
        return (lambda levels: (kept(levels[0]) if levels else None, "")), None
    above = depth and len({levels[0] for levels in parents if levels}) > 1

    def place(levels: tuple[str, ...]) -> Place:
        split = split_of(levels[depth]) if len(levels) > depth else ""
        label = (
            levels[0] if above else levels[depth + 1] if split and len(levels) > depth + 1 else None
        )
        return None if label is None else kept(label), split

    return place, sentence(parents, depth, place)


def split_level(parents: Iterable[tuple[str, ...]]) -> int | None:
    if is_split({levels[0] for levels in parents if levels}):
        return 0
    below: dict[str, set[str]] = {}
    for levels in parents:
        if len(levels) < 2:  # an image beside the folders: they are no split of its class
            return None
        below.setdefault(levels[0], set()).add(levels[1])
    every = {split_of(name) for names in below.values() for name in names}
    if all(map(is_split, below.values())) and "train" in every and every & {"val", "test"}:
        return 1
    return None


def is_split(names: set[str]) -> bool:
    splits = {split_of(name) for name in names}
    return bool(splits - {""}) and ("" not in splits or {"train"} < splits - {""})


def sentence(
    parents: Mapping[tuple[str, ...], int], depth: int, place: Callable[[tuple[str, ...]], Place]
) -> str:
    names = sorted({levels[depth] for levels in parents if len(levels) > depth})
    placed = [place(levels) for levels in parents]
    counts: Counter[str] = Counter()
    for (_, split), count in zip(placed, parents.values(), strict=True):
        counts[split] += count
    told = ", ".join(f"{counts[key]:,} {key}" for key in ("train", "val", "test") if counts[key])
    labels = sorted({label for label, _ in placed if label is not None})
    classes = f"the classes are {examples(labels)}" if labels else "there are no classes"
    text = (
        f"the folders {', '.join(name + '/' for name in names if split_of(name))} are taken as the split "
        f"({told} images); {classes}. If they are classes, write DATA#{AS_CLASSES}"
    )
    others = [name + "/" for name in names if not split_of(name)]
    if others:
        text += f". {examples(others)} belong to no side: their images are learnt from"
    return text


def split_by_name(names: Sequence[str]) -> list[str] | None:
    """Splits told by names of files or arrays, `train-000.tar` and `test-000.tar`, `/train/x` and `/test/x`.

    None where a name tells none, or all tell one side.
    """
    words = [re.split(r"[\W_\d]+", name) for name in names]
    splits = [next(filter(None, map(split_of, own)), "") for own in words]
    return splits if all(splits) and {"train"} < set(splits) else None
