"""Does a run end above the weights it started from, or below: both looked at on the same images.

N images, E embedding dims.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from jepack.encoder import Encoder
from jepack.measures import isotropy
from jepack.sources import class_ids
from training.data import groups_of
from training.run import Prepared
from training.watch.evaluation import (
    Floats,
    Labels,
    crops,
    features,
    knn_answers,
    linear_answers,
    standardised,
)

REFERENCE_IMAGES = 2048  # training images, for the probes
COMPARED_IMAGES = 2048  # held-out ones
AT_ONCE = 256  # images in memory
ERROR_RATE = 0.025  # of calling an encoder that is as good as its start below it, or above it
COLLAPSED = 0.5  # of the start's rank

ABOVE, SAME, BELOW, UNKNOWN = "above", "same", "below", "unknown"
WORDS = {
    ABOVE: "ends above its start",
    SAME: "is no different from its start",
    BELOW: "ends below its start",
    UNKNOWN: "without labels nobody can say whether it ends above or below its start",
}
FIGURES = {"knn": "kNN", "linear": "linear", "rankme": "RankMe", "embedding_rank": "rank"}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Start and end of a run on the same held-out images, at the size they are served at.

    `verdict`: "above", "same", "below", or "unknown" without labels (then "below" is a collapse only).
    """

    verdict: str
    start: dict[str, float]  # knn and linear where there are labels; rankme, embedding_rank
    end: dict[str, float]
    images: int
    size: int  # px
    better: int = 0  # images (or groups of images) of which the end's probes say more right
    worse: int = 0
    p_value: float | None = None  # of so uneven a division, were both as good

    def told(self) -> str:
        """The verdict and what it rests on, in a line."""
        names = ("knn", "linear") if "knn" in self.start else ("rankme", "embedding_rank")
        digits = 3 if "knn" in self.start else 1
        figures = ", ".join(
            f"{FIGURES[name]} {self.start[name]:.{digits}f} -> {self.end[name]:.{digits}f}"
            for name in names
        )
        basis = f"{self.images:,} held-out images of {self.size} px"
        if self.p_value is not None:
            basis += f": {self.better} better, {self.worse} worse, p = {self.p_value:.2g}"
        elif self.verdict == BELOW:
            basis += "; no labels, but it has collapsed: both ranks are below half of the start's"
        return f"{WORDS[self.verdict]}: {figures} ({basis})"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "told": self.told()}


def compare(start: Encoder, end: Encoder, prepared: Prepared) -> Comparison:
    """Both encoders on held-out images, at the size of serving.

    With labels by the sign test of `divided`; without them only a collapse can be told.
    """
    files, split, seed = prepared.images.files, prepared.split, prepared.config.seed
    labels, generator = class_ids(files), np.random.default_rng([seed, 6])
    chosen = generator.permutation(split.train[labels[split.train] >= 0])[:REFERENCE_IMAGES]
    known = split.held_out[labels[split.held_out] >= 0]
    labelled = len(np.unique(labels[chosen])) >= 2 and len(known) > 0
    asked = generator.permutation(known if labelled else split.held_out)[:COMPARED_IMAGES]
    encoders = (start, end)
    (first, last), seen = embeddings(encoders, prepared, asked)
    figures = figures_of(first), figures_of(last)
    size = prepared.preprocessing.size
    if not labelled:
        lost = all(figures[1][name] < COLLAPSED * figures[0][name] for name in figures[0])
        return Comparison(
            verdict=BELOW if lost else UNKNOWN, start=figures[0], end=figures[1],
            images=len(seen), size=size,
        )  # fmt: skip
    banks, reference = embeddings(encoders, prepared, chosen)
    right = [
        np.stack([
            knn_answers(bank, labels[reference], x) == labels[seen],
            linear_answers(bank, labels[reference], x) == labels[seen],
        ])
        for bank, x in zip(banks, (first, last), strict=True)
    ]  # fmt: skip
    for one, answers in zip(figures, right, strict=True):
        one |= {"knn": float(answers[0].mean()), "linear": float(answers[1].mean())}
    gained = right[1].sum(axis=0).astype(int) - right[0].sum(axis=0)
    names = groups_of(files, prepared.config.group_by)
    groups = None if names is None else np.asarray(names)[seen]
    better, worse, verdict, p_value = divided(gained, groups)
    return Comparison(
        verdict=verdict, start=figures[0], end=figures[1], images=len(seen), size=size,
        better=better, worse=worse, p_value=p_value,
    )  # fmt: skip


def divided(gained: Labels, groups: Any = None) -> tuple[int, int, str, float]:
    """(better, worse, verdict, p value) of [N] right answers gained per image by the end's two probes.

    Exact sign test: of the images whose answers changed, as many would be worse as better if both were as
    good; 1 run in 40 (`ERROR_RATE`) or fewer is then called below its start, and as many above it.
    Images of one group are counted as one, since they are wrong together.
    """
    if groups is not None:
        gained = np.bincount(np.unique(groups, return_inverse=True)[1], weights=gained)  # type: ignore[assignment]
    better, worse = int((gained > 0).sum()), int((gained < 0).sum())
    if not better + worse:
        return 0, 0, SAME, 1.0
    p_value = float(binomtest(worse, better + worse, 0.5).pvalue)  # of both sides
    if p_value > 2 * ERROR_RATE:
        return better, worse, SAME, p_value
    return better, worse, BELOW if worse > better else ABOVE, p_value


def embeddings(
    encoders: tuple[Encoder, ...], prepared: Prepared, chosen: npt.NDArray[np.int64]
) -> tuple[list[Floats], npt.NDArray[np.int64]]:
    """([N, E] of each encoder, the images that could be read); what is not finite says nothing: 0."""
    preprocessing = replace(prepared.preprocessing, size=prepared.config.serving_size)
    chunks: list[list[Floats]] = [[] for _ in encoders]
    seen = []
    for block in np.array_split(chosen, -(-len(chosen) // AT_ONCE)):
        pixels, kept = crops(prepared.images, block, preprocessing)
        seen.append(kept)
        for chunk, encoder in zip(chunks, encoders, strict=True):
            x = features(encoder, pixels, preprocessing)[0]
            chunk.append(np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0))
    return [np.concatenate(chunk) for chunk in chunks], np.concatenate(seen)


def figures_of(embedding: Floats) -> dict[str, float]:
    """What can be said of [N, E] without labels."""
    spread = isotropy.report(standardised(embedding), slices=128)
    rankme = isotropy.entropy_rank(np.linalg.svd(embedding, compute_uv=False))
    return {"rankme": rankme, "embedding_rank": spread.effective_rank}
