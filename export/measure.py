"""Running an engine over images, and how far two engines' outputs are apart.

N images, E embedding dims, D projection dims.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from export.evaluation import Evaluation
from jepack.bundle import OUTPUTS, cosine
from jepack.encoder import Encoder, EncoderGraph
from jepack.machine import threads
from jepack.measures import codes, isotropy, similarities

Floats = npt.NDArray[np.float32]
Engine = Callable[[npt.NDArray[np.uint8]], tuple[Floats, Floats]]

BATCH = 32
NEIGHBOURS = 10


@dataclass(frozen=True)
class Outputs:
    """What an engine gave for the evaluation images; the raw projection is known of PyTorch alone."""

    embedding: Floats  # [N, E]
    projection: Floats  # [N, D], calibrated
    raw_projection: Floats  # [N, D] before calibration, [N, 0] when not known

    def held_out(self, evaluation: Evaluation) -> Outputs:
        rows = evaluation.judged
        return Outputs(self.embedding[rows], self.projection[rows], self.raw_projection[rows])


def run_engine(engine: Engine, images: npt.NDArray[np.uint8]) -> Outputs:
    """One image alone, then batches of 32: a batch size frozen into a graph shows here."""
    cuts = [0, 1, *range(1 + BATCH, len(images), BATCH), len(images)]
    chooser, chunks = threads.Chooser(torch), []  # ONNX Runtime's sessions keep their own threads
    for start, stop in pairwise(cuts):
        with chooser.turn(stop - start):
            chunks.append(engine(images[start:stop]))
    embedding = np.concatenate([chunk[0] for chunk in chunks])
    projection = np.concatenate([chunk[1] for chunk in chunks])
    return Outputs(embedding, projection, np.zeros((len(images), 0), np.float32))


def measure_graph(graph: EncoderGraph, encoder: Encoder, evaluation: Evaluation) -> Outputs:
    """PyTorch's answers, with the raw projection that the collapse gate judges."""
    answers = run_engine(torch_engine(graph), evaluation.images)
    with torch.inference_mode():
        raw = encoder.projector(torch.from_numpy(answers.embedding)).numpy()
    return Outputs(answers.embedding, answers.projection, raw)


def torch_engine(module: Callable[..., Any]) -> Engine:
    def run(images: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        with torch.inference_mode():
            embedding, projection = module(torch.from_numpy(images))
        return embedding.float().numpy(), projection.float().numpy()

    return run


def compare(truth: Outputs, exported: Outputs, evaluation: Evaluation) -> dict[str, Any]:
    """Per output: largest difference, smallest cosine, recall@10, and the statistic's change.

    `max_abs` is the largest difference of any coordinate; `max_relative` divides it by the output's
    root mean square, so one limit fits every encoder. Everything but the statistic and recall is
    taken over golden and held-out images alike.
    """
    result: dict[str, Any] = {}
    rows = evaluation.judged
    for output in OUTPUTS:
        a, b = (np.asarray(getattr(side, output), np.float64) for side in (truth, exported))
        if a.shape != b.shape or not np.isfinite(b).all():
            result[output] = {"broken": f"shape {list(b.shape)}, should be {list(a.shape)}, finite"}
            continue
        scale = max(float(np.sqrt(np.mean(a**2))), 1e-30)
        difference = float(np.abs(a - b).max())
        before, after = statistic(a[rows]), statistic(b[rows])
        recall, neighbours = recall_of_neighbours(a[rows], b[rows])
        result[output] = {
            "max_abs": difference,
            "max_relative": difference / scale,
            "cosine": float(cosine(a, b).min()),
            "recall_at_10": recall,
            "neighbours": neighbours,
            "statistic": after,
            "statistic_change": abs(after - before) / before,
        }
    return result


def statistic(x_ND: npt.NDArray[Any]) -> float:
    directions = isotropy.random_directions(x_ND.shape[1], isotropy.SLICES, 0)
    return float(isotropy.sliced_statistic(np.asarray(x_ND, np.float64), directions).mean())


def recall_of_neighbours(a_ND: npt.NDArray[Any], b_ND: npt.NDArray[Any]) -> tuple[float, int]:
    """Share of each image's k nearest (cosine) under `a` that `b` finds too, and k.

    k is 10, less when there are fewer than 40 images: finding 10 of 12 proves nothing. A neighbour
    whose similarity ties with the k-th (to 1e-6) counts as found: duplicates have no order.
    """
    count = min(NEIGHBOURS, max(1, len(a_ND) // 4))
    similar_a, similar_b = (similarities(x) for x in (a_ND, b_ND))
    last = np.sort(similar_a, axis=1)[:, -count]
    nearest_b = np.argpartition(-similar_b, count - 1, axis=1)[:, :count]
    agree = np.take_along_axis(similar_a, nearest_b, axis=1) >= last[:, None] - 1e-6
    return float(agree.mean()), count


def shorter(held: Outputs) -> dict[str, Any]:
    """What cut rows, int8 and bits keep of the full rows' 10 nearest neighbours (cosine; for bits, Hamming
    distance): a table for isotropy.json. {} on fewer than 40 held-out images, where 10 of them prove nothing.
    """
    images = len(held.embedding)
    if images < 4 * NEIGHBOURS:
        return {}
    table: dict[str, Any] = {"floor": codes.FLOOR, "images": images, "neighbours": NEIGHBOURS}
    for output in OUTPUTS:
        x = np.asarray(getattr(held, output), np.float64)
        if not np.isfinite(x).all():
            continue
        kept = {str(size): share_kept(x, codes.cut(x, size)) for size in codes.sizes(x.shape[1])}
        table[output] = {
            "dimensions": kept,
            "int8": share_kept(x, codes.int8(x)),
            "binary": share_kept(x, 2.0 * codes.signs(x) - 1),
        }
    return table


def share_kept(x_ND: npt.NDArray[Any], short_NK: npt.NDArray[Any]) -> float:
    return round(recall_of_neighbours(x_ND, np.asarray(short_NK, np.float64))[0], 4)
