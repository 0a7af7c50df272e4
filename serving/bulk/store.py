"""The rows of a run: a folder of Parquet parts, one .parquet made of such parts, or an .npz made at the end.

A part is written to a temporary name, synced and renamed: after `kill -9` a row is there once or not at all.
Which images are done is read from the names in the parts themselves. `part-000007.parquet` holds rows,
`bad-000007.parquet` the images that were refused at the time, each with the reason.
"""

from __future__ import annotations

import io
import itertools
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from os import listdir
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np

from jepack.client import PARTS, READ_SINCE, RECORD, about, parquet, since_of
from jepack.errors import ArtifactError, ConfigError
from jepack.files import new_file, write_bytes, write_json
from jepack.machine import alone, is_locked
from serving.bulk.job import KEY, Job
from serving.bulk.rows import Keys, Rows, Totals
from serving.bulk.tables import HOW, bad_bytes, bad_rows, keys_of, row_bytes, totals_of

BAD = "bad-*.parquet"
LOCK = ".lock"


class Store(Protocol):
    """Where rows go."""

    place: Path | None  # a folder for temporary files, beside the rows

    def done(self) -> Keys:
        """The names that have a row."""
        ...

    def refused(self) -> Keys:
        """The names of bad images that are not to be tried again."""
        ...

    def add(self, rows: Rows) -> None: ...

    def totals(self, most: int) -> Totals:
        """With the reasons of the first `most` bad images."""
        ...

    def finish(self) -> None:
        """All images were dealt with."""
        ...


@contextmanager
def store_for(out: Path, job: Job, *, retry_bad: bool = False) -> Iterator[Store]:
    """The store at `out`: an ending of .npz or .parquet is one file, anything else a folder.

    Raises ArtifactError where a folder holds another job's rows or something else, naming the difference,
    and ConfigError where another command is writing there.
    """
    if out.suffix == ".npz":
        yield Memory(out, job)
        return
    folder = out.with_name(f"{out.name}.parts") if out.suffix == ".parquet" else out
    parquet()
    check_folder(folder, job)
    if is_locked(folder / LOCK):
        raise ConfigError(
            f"{out}: another `jepack embed` is writing there. Wait for it, or choose another --out"
        )
    with alone(folder / LOCK, "Choose another --out."):
        remove_half_written(folder)
        parts = Parts(folder, job)
        store = parts if folder == out else OneFile(out, parts)
        if retry_bad:
            store.forget_bad()
        yield store


def remove_half_written(folder: Path, *names: str) -> None:
    """What a command that was killed left of these files (see jepack.files), or of any in its own folder."""
    for left in folder.glob(".*.tmp"):
        stem = left.name[1:].rsplit(".", 2)[0]
        if not names or stem in [name[:60] for name in names]:
            left.unlink(missing_ok=True)


def check_folder(folder: Path, job: Job) -> None:
    """Raises ArtifactError where the folder holds anything but parts of this job."""
    record = folder / RECORD
    try:
        told = json.loads(record.read_text())["job"]
    except FileNotFoundError:
        others = [name for name in listdir(folder) if name[0] != "."] if folder.is_dir() else []
        if others:
            raise ArtifactError(
                f"{folder}: holds other files ({', '.join(sorted(others)[:3])}) and no {RECORD}. "
                "Choose a new folder for --out"
            ) from None
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{record}: cannot be read ({error}), so nobody knows what the parts beside it are of. "
            "Choose a new folder for --out"
        ) from error
    if different := job.differences(told):
        raise ArtifactError(
            f"{folder}: holds the rows of another job: {'; '.join(different)}. Choose another --out, or "
            f"remove {folder}"
        )


class Parts:
    """A folder of parts."""

    def __init__(self, folder: Path, job: Job) -> None:
        self.folder, self.job = folder, job
        self.place: Path | None = folder
        numbers = [int(path.stem.split("-")[1]) for path in self.files(PARTS, BAD)]
        self._first = max(numbers, default=-1) + 1  # of this run: the number of its frame 0
        self.run = self._record().get("run") or uuid4().hex
        self._tell(whole=False)

    def files(self, *patterns: str) -> list[Path]:
        return sorted(path for pattern in patterns for path in self.folder.glob(pattern))

    def done(self) -> Keys:
        return keys_of(self.files(PARTS))

    def refused(self) -> Keys:
        return keys_of(self.files(BAD))

    def add(self, rows: Rows) -> None:
        """Rows and bad images have no name in common, so either file may come first."""
        about = self.job.metadata(run=self.run)
        if rows.bad:
            write_bytes(self._new("bad", rows.frame), bad_bytes(rows.bad, about))
        if rows.names:
            about[READ_SINCE] = json.dumps([[len(rows.names), rows.began_ns]])
            write_bytes(self._new("part", rows.frame), row_bytes(rows, about))

    def _new(self, kind: str, frame: int) -> Path:
        """`part-000007.parquet`, so that names sort as frames do; of a frame's later rows `part-000007-1`."""
        stem = f"{kind}-{self._first + frame:06}"
        names = itertools.chain([stem], (f"{stem}-{again}" for again in itertools.count(1)))
        return next(
            path for name in names if not (path := self.folder / f"{name}.parquet").exists()
        )

    def totals(self, most: int) -> Totals:
        return totals_of(self.files(PARTS), self.files(BAD), most)

    def finish(self) -> None:
        self._tell(whole=True)

    def forget_bad(self) -> None:
        for file in self.files(BAD):
            file.unlink()

    def remove(self) -> None:
        """With its lock, which is held until the end."""
        shutil.rmtree(self.folder)

    def _record(self) -> dict[str, Any]:
        with suppress(FileNotFoundError):
            found: dict[str, Any] = json.loads((self.folder / RECORD).read_text())
            return found
        return {}

    def _tell(self, whole: bool) -> None:
        told = {"job": asdict(self.job), "run": self.run, "whole": whole}
        write_json(self.folder / RECORD, told)


class OneFile:
    """One .parquet, with a .bad.parquet beside it where images were refused.

    Rows go to parts; at the end the file is written anew from its own rows and theirs, and names the run
    whose parts it took: those are never taken twice. A file of another job is replaced when the new one is
    whole.
    """

    def __init__(self, out: Path, parts: Parts) -> None:
        self.out, self.parts, self.place = out, parts, parts.place
        self.bad = out.with_name(f"{out.stem}.bad.parquet")
        remove_half_written(out.parent, out.name, self.bad.name)
        if self._told(self.out).get("run") == parts.run:  # ended between renaming and removing
            for file in parts.files(PARTS, BAD):
                file.unlink()
        self.parts.run = uuid4().hex if not parts.files(PARTS, BAD) else parts.run
        self.parts._tell(whole=False)

    def done(self) -> Keys:
        return keys_of([*self._own(self.out), *self.parts.files(PARTS)])

    def refused(self) -> Keys:
        return keys_of([*self._own(self.bad), *self.parts.files(BAD)])

    def add(self, rows: Rows) -> None:
        self.parts.add(rows)

    def totals(self, most: int) -> Totals:
        rows = [*self._own(self.out), *self.parts.files(PARTS)]
        return totals_of(rows, [*self._own(self.bad), *self.parts.files(BAD)], most)

    def finish(self) -> None:
        module, rows, bad = parquet(), self.parts.files(PARTS), self.parts.files(BAD)
        about = self.parts.job.metadata(run=self.parts.run)
        refused = {
            name: (name, label, reason)
            for file in [*self._own(self.bad), *bad]
            for name, label, reason in bad_rows(file)
        }
        if refused:
            write_bytes(self.bad, bad_bytes(list(refused.values()), about))
        elif self.bad.exists():  # of another job, or tried again
            self.bad.unlink()
        if rows:
            rows = [*self._own(self.out), *rows]
            about[READ_SINCE] = json.dumps([some for file in rows for some in since_of(file)])
            schema = module.read_schema(rows[-1]).with_metadata(about)
            with new_file(self.out) as stage, module.ParquetWriter(stage, schema, **HOW) as writer:
                for file in rows:
                    for batch in module.ParquetFile(file).iter_batches():
                        writer.write_batch(batch.replace_schema_metadata(about))
        self.parts.remove()

    def forget_bad(self) -> None:
        self.bad.unlink(missing_ok=True)
        self.parts.forget_bad()

    def _told(self, file: Path) -> dict[str, str]:
        with suppress(ArtifactError):
            return about(file)
        return {}

    def _own(self, file: Path) -> list[Path]:
        """The file, where it is of this job."""
        try:
            told = json.loads(self._told(file)[KEY])
        except (KeyError, ValueError):
            return []
        return [] if self.parts.job.differences(told) else [file]


class Memory:
    """An .npz: all rows in memory until they are written."""

    def __init__(self, out: Path, job: Job) -> None:
        self.out, self.job = out, job
        self.place: Path | None = None
        self._rows: list[Rows] = []

    def done(self) -> Keys:
        return Keys()

    def refused(self) -> Keys:
        return Keys()

    def add(self, rows: Rows) -> None:
        self._rows.append(rows)

    def totals(self, most: int) -> Totals:
        bad = [one for rows in self._rows for one in rows.bad]
        images = sum(len(rows.names) for rows in self._rows)
        return Totals(images, len(bad), {name: reason for name, _, reason in bad[:most]})

    def finish(self) -> None:
        if not self.totals(0).images:
            return
        names = [name for rows in self._rows for name in rows.names]
        labels = [label for rows in self._rows for label in rows.labels]
        places = [(rows.frame, place) for rows in self._rows for place in rows.places]
        order = sorted(range(len(names)), key=places.__getitem__)
        arrays: dict[str, Any] = {
            "path": np.array([names[at] for at in order], dtype=np.str_),
            "label": np.array([labels[at] for at in order], dtype=np.str_),
        }
        for output, fingerprint in self.job.fingerprints.items():
            arrays[output] = np.concatenate([rows.outputs[output] for rows in self._rows])[order]
            arrays[f"fingerprint_{output}"] = np.str_(fingerprint)
        arrays["default_output"] = np.str_(self.job.default_output)
        arrays["base"] = np.str_(self.job.base)
        arrays[READ_SINCE] = np.int64(min(rows.began_ns for rows in self._rows))
        stream = io.BytesIO()
        np.savez(stream, **arrays)
        write_bytes(self.out, stream.getvalue())

    def forget_bad(self) -> None:
        """None are remembered."""
