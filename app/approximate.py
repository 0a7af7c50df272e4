"""Approximate search, for indexes so large that comparing every vector takes long: LanceDB's IVF_RQ.

It is used only where it has been measured, on the index's own vectors, to find at least a share of what
comparing every vector finds: isotropic vectors, for one, have no near neighbours that partitions could keep
together. The figure is kept beside the index, as `approximate.json`, and holds for one version of the table.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.store import METRIC, Vectors
from jepack.files import write_json

FILE = "approximate.json"
FROM = (
    2_000_000  # vectors; of 512 dimensions comparing every one takes some 60 ms there, on one core
)
LEAST = 1000  # vectors, to have partitions at all
RECALL = 0.95
ASKED, K = 200, 10  # vectors of the index that ask for their ten nearest others
MOST_K = 100  # that is far beyond what was measured: more are searched exactly
PROBES = (16, 32, 64, 128)  # partitions searched: the fewest that are good enough
REFINE = 10  # times k are compared in float32
COLUMN = "vector"
Answer = Callable[[Vectors, int], list[list[str]]]  # (queries, k) -> ids, nearest first


@dataclass(frozen=True, kw_only=True)
class Approximate:
    """What was measured, and whether search may use it."""

    recall: float  # @10, of `probes`
    least: float  # that was asked for
    probes: int
    vectors: int
    version: int  # of the table

    @property
    def used(self) -> bool:
        return self.recall >= self.least

    def told(self) -> str:
        """A sentence."""
        what = f"approximate search finds {self.recall:.1%} of the ten nearest of {ASKED} of its own vectors"
        if self.used:
            return f"{what}; asked for were {self.least:.1%}"
        return f"{what}, and {self.least:.1%} were asked for: every vector is compared instead"


def wanted(recall: float | None, count: int) -> float | None:
    """The least recall that approximate search must have in an index of `count`; None: it is not tried."""
    least = RECALL if recall is None and count >= FROM else recall
    return None if least is None or least >= 1 or count < LEAST else least


def make(
    folder: Path, table: Any, ids: list[str], queries_QD: Vectors, exact: Answer, least: float
) -> None:
    """Build the engine's index of `table` and measure it with vectors of its own, which have these ids.

    Where it is not good enough it is dropped again, and the figure is kept all the same.
    """
    from lancedb.index import IvfRq

    truth = others(exact(queries_QD, K + 1), ids)
    table.create_index(COLUMN, config=IvfRq(distance_type="cosine"))
    for probes in PROBES:
        answers = [names_of(ask(table, query, K + 1, probes)) for query in queries_QD]
        recall = agreement(others(answers, ids), truth)
        if recall >= least:
            break
    if recall < least:
        for index in table.list_indices():
            table.drop_index(index.name)
    count, version = int(table.count_rows()), int(table.version)
    measured = Approximate(
        recall=recall, least=least, probes=probes, vectors=count, version=version
    )
    write_json(folder / FILE, asdict(measured))


def read(folder: Path, version: int | None = None) -> Approximate | None:
    """What was measured; None where nothing was, or of another version of the table."""
    try:
        found = Approximate(**json.loads((folder / FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return found if version in (None, found.version) else None


def ask(table: Any, vector: Vectors, k: int, probes: int) -> Any:
    """The engine's query; not yet run."""
    asked = (
        table.search(vector).distance_type(METRIC).minimum_nprobes(probes).maximum_nprobes(probes)
    )
    return asked.refine_factor(REFINE).limit(k)


def names_of(asked: Any) -> list[str]:
    return list(asked.select(["id"]).to_arrow().column("id").to_pylist())


def others(answers: list[list[str]], ids: list[str]) -> list[list[str]]:
    """The K nearest of each, itself left out."""
    return [[one for one in own if one != name][:K] for own, name in zip(answers, ids, strict=True)]


def agreement(found: list[list[str]], truth: list[list[str]]) -> float:
    pairs = zip(found, truth, strict=True)
    return float(np.mean([len(set(one) & set(own)) / max(1, len(own)) for one, own in pairs]))
