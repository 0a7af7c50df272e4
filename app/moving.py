"""An index from one engine to the other, or from one place to another: Arrow batches, checked, then named.

What was written before a move was stopped stays in a place of its own, and the same command goes on there.
The index that is moved stays as it is.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from app import lance, milvus_building, scale
from app.engines import address_of, folder_of, open_index, there
from app.journal import Journal
from app.lance_errors import engine_errors
from app.milvus import MilvusStore
from app.milvus_address import Address, refuse_mistyped
from app.milvus_server import connect
from app.store import METADATA, IndexInfo, VectorStore, read_info, write_info
from jepack.errors import ArtifactError, ConfigError
from jepack.files import new_file, new_folder
from jepack.machine import only_one

BATCH = 2_000  # rows at once: 10 MB with thumbnails and 512 dimensions
SAMPLE = 200  # rows that are compared whole
Progress = Callable[[int], None]  # called with the number of rows just dealt with


@dataclass(frozen=True)
class Moved:
    count: int  # rows in the new index
    kept: int  # of these, rows that an earlier, stopped move had written
    journal: (
        str  # "moved", "none" there was, or "other": the new place has one already, which stays
    )


def move(
    source: Path | str,
    target: Path | str,
    on_progress: Progress = lambda count: None,
    *,
    replace_other: bool = False,
) -> Moved:
    """Copy every row to `target`; an index of the same data and encoder there is replaced when the new one
    is whole, and with `replace_other` any index.

    Raises ConfigError for one place named twice, a mistyped address, another index at `target` and while
    another move goes there, ArtifactError when what arrived is not what was sent.
    """
    if folder_of(source).absolute() == folder_of(target).absolute():
        raise ConfigError(f"{source} and {target} are one index. Name another place to move it to")
    if address_of(target) is None:
        refuse_mistyped(target)
    store, kept = open_index(source), 0
    key, place = key_of(store, source), folder_of(target).absolute()
    lock = place.with_name(f".{place.name[:60]}.moving.lock")
    busy = f"{target}: another move to it is under way. Wait for it, or name another place"
    with only_one(lock, busy):
        if not replace_other:
            check_free(store.info, target)
        with staged(target, store, key) as (stage, resumed):
            for batch in store.batches(BATCH):
                ids = batch.column("id").to_pylist()
                found = set(stage.found(ids)) if resumed else set()
                kept += len(found)
                if len(found) < len(ids):
                    stage.take(batch.take([at for at, name in enumerate(ids) if name not in found]))
                on_progress(len(ids))
            compare(store, stage)
        return Moved(store.count(), kept, with_journal(store.folder, folder_of(target)))


def check_free(info: IndexInfo, target: Path | str) -> None:
    """Raises ConfigError where `target` holds an index of other data, or of another encoder or output."""
    if not there(target):
        return
    away = address_of(target) is not None
    try:
        other = open_index(target).info if away else read_info(Path(target))
    except ArtifactError as error:
        if away:  # a collection of somebody else: milvus_building.check_ours says so
            return
        raise ConfigError(
            f"{target}: holds an index that cannot be read ({error}). Name another place, or say --replace"
        ) from error
    if (other.data, other.fingerprint) != (info.data, info.fingerprint):
        raise ConfigError(
            f"{target}: holds another index, {other.name!r}: {other.count:,} images of {other.data}, "
            f"fingerprint {other.fingerprint} ({other.output}); to be moved is {info.name!r} of "
            f"{info.data}, fingerprint {info.fingerprint} ({info.output}). Name another place, or say "
            "--replace"
        )


class Different(ArtifactError):
    """What arrived is not what was sent, so it is of no use to a next try."""


def key_of(store: VectorStore, source: Path | str) -> str:
    """Tells what is moved: another build of the same index has another key."""
    info, where = store.info, str(address_of(source) or Path(source).absolute())
    return hashlib.sha256(f"{where}\0{info.fingerprint}\0{info.created}".encode()).hexdigest()[:12]


def compare(store: VectorStore, stage: VectorStore) -> None:
    """Raises ArtifactError when the number of rows, or any of a sample, differs."""
    counts = store.count(), stage.count()
    if counts[0] != counts[1]:
        raise Different(
            f"{store.folder}: {counts[0]:,} rows were to be moved and {counts[1]:,} are there: rows came or "
            "went meanwhile. Run the command again when nobody writes to the index"
        )
    ids = [row.id for part in store.scan() for row in part]
    picked = np.random.default_rng(0).choice(len(ids), min(SAMPLE, len(ids)), replace=False)
    names = [ids[at] for at in picked]
    for one, other in zip(store.get(names), stage.get(names), strict=True):
        same = np.array_equal(one.vector, other.vector)  # type: ignore[arg-type]
        if not same or replace(one, vector=None) != replace(other, vector=None):
            raise Different(
                f"{store.folder}: {one.id!r} is not the same after the move. The new index was not put "
                "in place. Run the command again"
            )


@contextmanager
def staged(target: Path | str, store: VectorStore, key: str) -> Iterator[tuple[VectorStore, bool]]:
    """(a store to fill, whether it holds rows of an earlier move); it becomes the index at `target`."""
    address = address_of(target)
    info = store.info
    measured = scale.read(store.folder, store.count())
    work = (
        in_folder(Path(target), info, key, measured)
        if address is None
        else in_milvus(address, info, key, measured)
    )
    with work as stage:
        yield stage


@contextmanager
def in_folder(
    folder: Path, info: IndexInfo, key: str, measured: scale.Scale | None
) -> Iterator[tuple[VectorStore, bool]]:
    lance.check_own(folder)
    place = folder.absolute().with_name(f".{folder.name[:60]}.{key}.moving")
    resumed = (place / METADATA).is_file()
    with engine_errors(folder):
        if resumed:
            stage = lance.open_index(place)
        else:
            shutil.rmtree(place, ignore_errors=True)  # of a move that had not begun
            place.mkdir(parents=True)
            stage = lance.create(place, info)
            write_info(place, info)
        try:
            yield stage, resumed
        except Different:
            shutil.rmtree(place)
            raise
        lance.settle(place, stage)
        with new_folder(folder, start_from=place) as whole:
            write_info(whole, replace(info, count=stage.count()))
            scale.write(whole, measured or scale.measure(stage))
    shutil.rmtree(place, ignore_errors=True)


@contextmanager
def in_milvus(
    address: Address, info: IndexInfo, key: str, measured: scale.Scale | None
) -> Iterator[tuple[VectorStore, bool]]:
    server = connect(address)
    milvus_building.check_ours(server, address)
    name = f"{address.collection}_{key}"
    found = server.described(name)
    if found is None:
        milvus_building.create(server, name, info)
    server.call("load_collection", name)
    stage = MilvusStore(address, server, info, name)
    before = server.described(address.collection)
    if before is not None and before.name == name:
        raise ConfigError(f"{address}: is this index already")
    try:
        yield stage, found is not None
    except Different:
        server.call("drop_collection", name)
        raise
    milvus_building.publish(stage, measured)


def with_journal(source: Path, target: Path) -> str:
    """What people said of the images goes along, where the new place has no such file of its own."""
    old, new = Journal(source).path, Journal(target).path
    if not old.is_file():
        return "none"
    if new.exists():
        return "other"
    with (
        new_file(new) as stage,
        closing(sqlite3.connect(old)) as db,
        closing(sqlite3.connect(stage)) as copy,
    ):
        db.backup(copy)
    return "moved"
