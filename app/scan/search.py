"""The nearest rows of a copy, exactly: candidates by their codes, told apart by their float32 vectors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from app.scan.codes import Floats
from app.scan.kept import Copy
from app.scan.nearest import Places, candidates
from jepack.measures import unit

AT_ONCE = 256  # queries of one matrix product
DIGITS = 7  # of a distance: what float32 vectors hold
Near = tuple[Places, npt.NDArray[np.float64]]  # (places of rows, cosine distances)


def search(
    copy: Copy, vectors_QD: Floats, k: int, among: Places | None = None
) -> list[Near | None]:
    """The k nearest rows of each query, in no order, and all that are as near as the last of them.

    None where codes tell too little and the rows must be compared one by one. `among`: these rows alone.
    """
    queries, found = unit(np.asarray(vectors_QD, np.float64)), list[Places | None]()
    for start in range(0, len(queries), AT_ONCE):
        asking = copy.book.ask(queries[start : start + AT_ONCE], copy.base_most)
        found += candidates(copy.rows, asking, k, among)
    return [
        None if places is None else nearest(copy, query, places, k)
        for query, places in zip(queries, found, strict=True)
    ]


def nearest(copy: Copy, query: npt.NDArray[np.float64], places: Places, k: int) -> Near:
    far = np.maximum(0, np.round(1 - copy.vector[places] @ query, DIGITS)) + 0.0  # never -0
    if len(far) > k:
        stays = far <= np.partition(far, k - 1)[k - 1]
        places, far = places[stays], far[stays]
    return places, far
