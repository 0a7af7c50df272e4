"""kill -9 while an index is written: nothing that was acknowledged is lost, and a reader never sees half.

    python -m benchmarks.index_kills --tries 100        # ten minutes on one core

A writer process upserts batches into an index, each a generation of the same images plus one new one, and says
so when the engine has acknowledged it; every fifth writer rebuilds the whole index instead, as `jepack index`
does. It is killed at a random moment. Meanwhile a reader process opens the index again and again, and searches
it: all rows of a state must be of one generation, and the generation never older than one acknowledged before
it was opened. After each kill this process opens the index and looks for the same.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from app.lance import LanceStore, building, open_index
from app.store import IndexInfo, Row
from jepack.errors import ArtifactError
from jepack.files import write_json

OUT = Path(__file__).parent / "results" / "index_kills.json"
D, IMAGES = 32, 40
SPACE = "00000000000000aa"
INFO = IndexInfo(name="kills", output="embedding", dimension=D, fingerprint=SPACE, data="photos")
MOST_S = 1.0  # from a writer's first acknowledgement to its end
WAIT_S = 120.0
Json = dict[str, Any]


def rows_of(generation: int) -> list[Row]:
    """The images as they are in one generation: label and vector say which."""
    rng = np.random.default_rng(generation)
    return [
        Row(
            id=f"{at:03d}.png",
            label=str(generation),
            thumbnail=bytes(2000),
            vector=rng.normal(size=D).astype(np.float32),
        )
        for at in range(IMAGES)
    ]


def look(store: LanceStore) -> int:
    """The generation that all of the index is of; AssertionError where it is of more than one, or wrong."""
    rows = store.get([f"{at:03d}.png" for at in range(IMAGES)])
    generations = {row.label for row in rows}
    assert len(generations) == 1, f"half: {generations}"
    generation = int(generations.pop() or 0)
    assert store.count() == IMAGES, f"{store.count()} rows"
    wanted = rows_of(generation)
    for row, other in zip(rows, wanted, strict=True):
        np.testing.assert_array_equal(row.vector, other.vector)
    asked = np.stack([row.vector for row in wanted if row.vector is not None])
    for row, hits in zip(wanted, store.search(asked, 1, fingerprint=SPACE), strict=True):
        assert (hits[0].row.id, hits[0].row.label) == (row.id, row.label), "search saw another state"
    return generation


def write_on(folder: Path, generation: int, rebuild: bool) -> None:
    """The writer: one generation after the other, each told when it is acknowledged, until it is killed."""
    store = open_index(folder)
    for one in itertools.count(generation + 1):
        if rebuild:
            with building(folder, INFO) as new:
                new.upsert(rows_of(one), fingerprint=SPACE)
        else:
            store.upsert(rows_of(one), fingerprint=SPACE)
        print(one, flush=True)
        if not rebuild and one % 2:
            store.copy_codes()


def read_on(folder: Path) -> None:
    """The reader: a line for each look; what was wrong with it, where something was."""
    while True:
        began = time.monotonic_ns()
        try:
            print(began, look(open_index(folder)), flush=True)
        except ArtifactError as error:
            print(began, f"refused: {error}", flush=True)
        except AssertionError as error:
            print(began, f"wrong: {error}", flush=True)
