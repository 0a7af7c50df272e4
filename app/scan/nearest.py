"""Which rows can be among the nearest: all that their codes do not rule out.

A floor that k rows are sure to reach is taken from a sample of the rows; a row stays when the most that its
similarity can be reaches the floor. So none of the k nearest is ever missed, and few others stay.

N rows, B rows of a block, S of the sample, D dimensions, Q queries, M pairs of a row and a query.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import numpy.typing as npt

from app.scan.codes import Asking, Rows, Turns
from app.scan.product import Product
from jepack.machine import threads

ONE_IN, SAMPLE = 32, 2048  # rows are in the sample; but this many where there are
CELLS = 1 << 18  # of a block's product, 1 MB: they stay in a core's cache
FEW_ROWS, MOST_ROWS = 1 << 14, 1 << 16  # of a block, where there are enough and the queries few
CROWD = 4096  # of a block may stay for one query; where more do, codes tell nothing
Places = npt.NDArray[np.int64]
Queries = npt.NDArray[np.int16]


def candidates(
    rows: Rows, asking: Asking, k: int, among: Places | None = None
) -> list[Places | None]:
    """The places of the rows that can be among the k nearest of each query; None where too many can.

    At most 2**15 queries. `among`: these rows alone, ascending.
    """
    count, queries = len(rows) if among is None else len(among), len(asking)
    if not count:
        return [np.empty(0, np.int64) for _ in range(queries)]
    product, crowd = Product(asking.code), max(CROWD, 2 * k)
    step = max(1, min(ONE_IN, count // max(SAMPLE, 2 * k)))
    sample = rows[::step] if among is None else rows[among[::step]]
    floor_Q = floor(sample, asking, k, product)
    size = max(1, min(MOST_ROWS, CELLS // queries, max(FEW_ROWS, -(-count // cores()))))
    spread = pool().map if cores() > 1 and count > size else map  # a thread costs 5,000 rows

    def look(start: int) -> tuple[Places, Queries, Turns, Turns, Places]:
        end = min(start + size, count)
        part = rows[start:end] if among is None else rows[among[start:end]]
        row, query, low, high, crowded = reaching(part, asking, product, floor_Q, crowd)
        place = start + row if among is None else among[start + row]
        return place, query, low, high, crowded

    parts = spread(look, range(0, count, size))
    place, query, low, high, crowded = (np.concatenate(each) for each in zip(*parts, strict=True))
    order = np.argsort(query, kind="stable")
    ends, full = np.searchsorted(query[order], np.arange(queries + 1)), set(crowded.tolist())
    found: list[Places | None] = []
    for at in range(queries):
        own = order[ends[at] : ends[at + 1]]
        if at not in full and len(own) > k:
            own = own[high[own] >= np.partition(low[own], -k)[-k]]
        found.append(None if at in full else np.sort(place[own]))
    return found


def floor(sample: Rows, asking: Asking, k: int, product: Product) -> Turns:
    """[Q]: what k rows reach at least, in turns; the lowest number where there are not as many."""
    count = len(sample)
    if count < k:
        return np.full(len(asking), np.iinfo(np.int32).min, np.int32)
    base, bound = asking.levels(sample)
    low_QS = np.ascontiguousarray((product(sample.code) + (base - bound)[:, None]).T)
    low_QS.partition(count - k, axis=1)
    return low_QS[:, count - k]


def reaching(
    part: Rows, asking: Asking, product: Product, floor_Q: Turns, crowd: int
) -> tuple[Places, Queries, Turns, Turns, Places]:
    """(row in the block, query, lowest, highest) [M] of the pairs that can reach the floor, and the queries
    that have too many of them."""
    base, bound = asking.levels(part)
    high_BQ = product(part.code)
    high_BQ += (base + bound)[:, None]
    stays = high_BQ >= floor_Q
    flat, crowded = np.flatnonzero(stays), np.empty(0, np.int64)
    if len(flat) > crowd:
        crowded = np.flatnonzero(stays.sum(axis=0) > crowd)
        stays[:, crowded] = False
        flat = np.flatnonzero(stays)
    row = flat // len(asking)
    query = (flat - row * len(asking)).astype(np.int16)  # which numpy sorts in one pass
    high = high_BQ.ravel()[flat]
    return row, query, high - 2 * bound[row], high, crowded


cores = cache(threads.cores)  # reading it takes as long as 3,000 rows


@cache
def pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="jepack-scan")
