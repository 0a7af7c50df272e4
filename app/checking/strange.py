"""Images that are unlike the others.

By the tenth nearest, so that a handful of strangers of one kind do not vouch for each other, in two ways.
As the index searches, by cosine: a general encoder puts a stranger far from everything. And along the
DIMENSIONS widest directions, each at the same width: an encoder trained on these images alone may put what
makes a stranger strange along a direction that the rest hardly uses. That is the weaker witness, and has to
say more (see benchmarks.planting). Where the index holds projections and the bundle's null is at hand, its
p-values are told too; they do not decide, because some hundred held-out images can be beaten by one image in
a hundred of any large index.

N images, D dimensions, K directions.
"""

from __future__ import annotations

import numpy as np

from app.checking.material import BLOCK, Floats, Material, Progress
from app.checking.report import Case, Finding
from jepack.measures import Null

DIMENSIONS = 64
NEIGHBOUR = 10
# Interquartile ranges beyond the upper quartile, of the distance's logarithm (Tukey).
FENCE, WIDE_FENCE = 1.0, 2.0


def find(material: Material, null: Null | None, on_progress: Progress) -> Finding:
    finding = Finding(kind="strange", title="Unusual images", method=METHOD, measure=MEASURE)
    if len(material.ids) <= 2 * NEIGHBOUR:
        return Finding(
            **{**vars(finding), "skipped": f"It needs more than {2 * NEIGHBOUR} images."}
        )
    near = beyond(material.far_NL[:, NEIGHBOUR - 1]) / FENCE
    wide = beyond(tenth(widened(material.raw_ND), on_progress)) / WIDE_FENCE
    far = np.maximum(near, wide)
    alone, p = far > 1, p_among(far)
    under = None
    if null is not None and null.dimensions == material.raw_ND.shape[1]:
        under = null.p_values(material.raw_ND)
    cases = [
        Case(ids=(material.ids[at],), why=why_of(p, under, int(at)), figure=float(p[at]))
        for at in np.flatnonzero(alone)
    ]
    return Finding(
        **{**vars(finding), "cases": tuple(sorted(cases, key=lambda case: (case.figure, case.ids)))}
    )


METHOD = (
    "Those whose tenth nearest lies beyond this index's own distances: its upper quartile and "
    f"{FENCE:g} times the range between the quartiles, in logarithms; or {WIDE_FENCE:g} times along the "
    f"{DIMENSIONS} widest directions at equal width. An encoder can place a strange image among ordinary "
    "ones: not being told is no proof."
)
MEASURE = "p-value: the share of the images here that lie as far from their tenth nearest"


def beyond(far_N: Floats) -> Floats:
    """[N]: interquartile ranges beyond the upper quartile, in logarithms."""
    levels = np.log(np.maximum(far_N.astype(np.float64), 1e-12))
    low, high = np.quantile(levels, [0.25, 0.75])
    return np.asarray((levels - high) / max(high - low, 1e-9))


def why_of(p: Floats, under: Floats | None, at: int) -> str:
    told = f"Lies far from all others, its tenth nearest as well (p = {p[at]:.2g} among the images here)."
    if under is not None:
        told += f" Of the images its encoder was judged by, {under[at]:.1%} are as strange to it."
    return told


def p_among(far: Floats) -> Floats:
    """The share of all that are as far, oneself among them."""
    ordered = np.sort(far)
    return np.asarray((len(far) - np.searchsorted(ordered, far, side="left")) / len(far))


def widened(x_ND: Floats) -> Floats:
    """[N, K] along the widest directions, each with standard deviation 1."""
    x = x_ND.astype(np.float64) - x_ND.mean(axis=0)
    spread, directions = np.linalg.eigh(x.T @ x / len(x))
    kept = np.flatnonzero(spread > 1e-6 * spread[-1])[-DIMENSIONS:]
    return np.asarray(x @ (directions[:, kept] / np.sqrt(spread[kept])))


def tenth(x_NK: Floats, on_progress: Progress) -> Floats:
    """[N]: squared distance to the NEIGHBOUR-th nearest."""
    squares = (x_NK**2).sum(axis=1)
    found = np.empty(len(x_NK))
    for start in range(0, len(x_NK), BLOCK):
        here = slice(start, start + BLOCK)
        apart = squares[here, None] + squares - 2 * x_NK[here] @ x_NK.T
        found[here] = np.partition(apart, NEIGHBOUR, axis=1)[:, NEIGHBOUR]  # the 0th is itself
        on_progress(min(1.0, (start + BLOCK) / len(x_NK)))
    return found
