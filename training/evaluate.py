"""How good is it so far: features of fixed images, kNN accuracy, isotropy.

N images, E embedding dims, D projection dims.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from jepack import isotropy, preprocess
from jepack.encoder import Encoder, EncoderGraph
from jepack.isotropy import Calibration, IsotropyReport
from jepack.preprocess import Pixels, Preprocessing
from training.data import Cache

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Evaluation:
    """Figures of one moment of a run, on held-out images the encoder does not train on."""

    knn_accuracy: float | None  # 0..1; None without at least two classes
    majority: float | None  # accuracy of always answering the commonest class
    projection: IsotropyReport
    embedding: IsotropyReport

    def figures(self) -> dict[str, float]:
        found = {
            "projection_statistic": self.projection.statistic,
            "projection_rank": self.projection.effective_rank,
            "embedding_rank": self.embedding.effective_rank,
            "rankme": self.embedding.rankme,
        }
        if self.knn_accuracy is not None and self.majority is not None:
            found |= {"knn": self.knn_accuracy, "majority": self.majority}
        return found


def crops(cache: Cache, chosen: npt.NDArray[np.int64], preprocessing: Preprocessing) -> Pixels:
    """[N, S, S, C] centre crops as serving would cut them, from the cached pixels."""
    return np.stack([preprocess.crop(cache[int(index)], preprocessing) for index in chosen])


@torch.no_grad()
def features(
    encoder: Encoder, images_NHWC: Pixels, preprocessing: Preprocessing, *, batch_size: int = 256
) -> tuple[Floats, Floats]:
    """(embedding [N, E], raw projection [N, D]) in eval mode and float32."""
    if next(encoder.parameters()).dtype != torch.float32:
        encoder = copy.deepcopy(encoder).float()
    was_training = encoder.training
    encoder.eval()
    width = encoder.projector.config.out_features
    nothing = Calibration(np.zeros(width), np.eye(width))
    device = next(encoder.parameters()).device
    graph = EncoderGraph(encoder, preprocessing, nothing).to(device).eval()
    parts: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(images_NHWC), batch_size):
        pixels = torch.from_numpy(images_NHWC[start : start + batch_size]).to(device)
        parts.append(graph(pixels))
    encoder.train(was_training)
    embedding, projection = (
        torch.cat(part).float().cpu().numpy() for part in zip(*parts, strict=True)
    )
    return embedding, projection


def evaluate(
    encoder: Encoder,
    preprocessing: Preprocessing,
    reference: tuple[Pixels, npt.NDArray[np.int64]],
    held_out: tuple[Pixels, npt.NDArray[np.int64]],
) -> Evaluation:
    """Measure on held-out crops; `reference` are training crops for kNN. Labels -1 are unknown."""
    embedding, projection = features(encoder, held_out[0], preprocessing)
    accuracy = majority = None
    labels = held_out[1]
    if len(np.unique(reference[1][reference[1] >= 0])) >= 2 and (labels >= 0).any():
        known = features(encoder, reference[0], preprocessing)[0]
        accuracy = knn_accuracy(known, reference[1], embedding, labels)
        counts = np.bincount(labels[labels >= 0])
        majority = float(counts.max() / counts.sum())
    return Evaluation(
        accuracy, majority, isotropy.report(projection), isotropy.report(embedding, slices=128)
    )


def knn_accuracy(
    known: Floats,
    known_labels: npt.NDArray[np.int64],
    asked: Floats,
    asked_labels: npt.NDArray[np.int64],
    k: int = 20,
) -> float:
    """Accuracy of a cosine-weighted vote among the k nearest; rows labelled -1 are left out."""
    bank = F.normalize(torch.from_numpy(known[known_labels >= 0]), dim=1)
    query = F.normalize(torch.from_numpy(asked[asked_labels >= 0]), dim=1)
    bank_labels = torch.from_numpy(known_labels[known_labels >= 0])
    similarity, nearest = (query @ bank.T).topk(min(k, len(bank)), dim=1)
    votes = torch.zeros(len(query), int(bank_labels.max()) + 1)
    votes.scatter_add_(1, bank_labels[nearest], (similarity / 0.07).exp())
    answer = votes.argmax(dim=1).numpy()
    return float((answer == asked_labels[asked_labels >= 0]).mean())
