"""How good is it so far: features of fixed images, kNN and linear accuracy, isotropy of three outputs.

N images, E embedding dims, D projection dims. Everything here runs on one rank and waits for no other.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from jepack.decoding import Pixels, Preprocessing, preprocess
from jepack.encoder import Encoder, EncoderGraph
from jepack.machine import threads
from jepack.measures import Calibration, IsotropyReport, isotropy, unit, vote
from training.data import Images
from training.parallel import exact_float32
from training.views import Normalise

Floats = npt.NDArray[np.float32]


PATCHES_PER_IMAGE = 8
EMBEDDING = threads.Chooser(torch)  # one for the process: what it has learnt serves the next call
LINEAR_STRENGTH = (
    0.1  # of the features standardised; within .025 of the chosen one on solar and Earth
)


@dataclass(frozen=True)
class Evaluation:
    """Figures of one moment of a run, on held-out images the encoder does not train on."""

    knn_accuracy: float | None  # 0..1; None without at least two classes
    linear_accuracy: float | None  # 0..1, of a logistic probe; None without at least two classes
    majority: float | None  # accuracy of always answering the commonest class
    projection: IsotropyReport
    # Centred and brought to mean variance 1, as training asks for no scale of them.
    embedding: IsotropyReport
    patch: IsotropyReport | None  # tokens or cells of the last feature map; None without one
    rankme: float  # of the embedding as it is

    def figures(self) -> dict[str, float]:
        figures = {"rankme": self.rankme}
        reports = {
            "projection": self.projection, "embedding": self.embedding, "patch": self.patch,
        }  # fmt: skip
        for name, report in reports.items():
            if report is not None:
                figures[f"{name}_statistic"] = report.statistic
                figures[f"{name}_rank"] = report.effective_rank
        labelled = {
            "knn": self.knn_accuracy, "linear": self.linear_accuracy, "majority": self.majority,
        }  # fmt: skip
        return figures | {name: value for name, value in labelled.items() if value is not None}


def crops(
    images: Images, chosen: npt.NDArray[np.int64], preprocessing: Preprocessing
) -> tuple[Pixels, npt.NDArray[np.int64]]:
    """[N, S, S, C] centre crops as serving would cut them, and which images: those that can be read.

    Read in the files' order, so that of shards each is opened once.
    """
    cut = {}
    for index in np.sort(chosen).tolist():
        image = images.get(index)
        if image is not None:
            cut[index] = preprocess.crop(image, preprocessing)
    kept = [index for index in chosen.tolist() if index in cut]
    return np.stack([cut[index] for index in kept]), np.array(kept, dtype=np.int64)


@torch.no_grad()
def features(
    encoder: Encoder, images_NHWC: Pixels, preprocessing: Preprocessing, *, batch_size: int = 0
) -> tuple[Floats, Floats]:
    """(embedding [N, E], raw projection [N, D]) in eval mode and float32.

    `batch_size` 0: 256 images, fewer of more than 112 px, whose first feature maps fill memory.
    """
    batch_size = batch_size or max(16, min(256, 256 * 112**2 // preprocessing.size**2))
    if next(encoder.parameters()).dtype != torch.float32:
        encoder = copy.deepcopy(encoder).float()
    was_training = encoder.training
    encoder.eval()
    width = encoder.projector.config.out_features
    nothing = Calibration(np.zeros(width), np.eye(width))
    device = next(encoder.parameters()).device
    graph = EncoderGraph(encoder, preprocessing, nothing).to(device).eval()
    chunks: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(images_NHWC), batch_size):
        pixels = torch.from_numpy(images_NHWC[start : start + batch_size]).to(device)
        with exact_float32(), EMBEDDING.turn(len(pixels)):
            chunks.append(graph(pixels))
    encoder.train(was_training)
    embedding, projection = (
        torch.cat(part).float().cpu().numpy() for part in zip(*chunks, strict=True)
    )
    return embedding, projection


@torch.no_grad()
def patch_features(
    encoder: Encoder, images_NHWC: Pixels, preprocessing: Preprocessing, *, batch_size: int = 64
) -> Floats | None:
    """[8 N or fewer, E] tokens or cells of the last feature map, at places fixed per image.

    None where the backbone does not give one.
    """
    backbone: Any = encoder.backbone
    if not hasattr(backbone, "forward_features"):
        return None
    if next(encoder.parameters()).dtype != torch.float32:
        backbone = copy.deepcopy(backbone).float()
    normalise = Normalise(preprocessing.mean, preprocessing.std)
    device, was_training = next(backbone.parameters()).device, backbone.training
    backbone.eval()
    chunks = []
    generator = np.random.default_rng(7)
    for start in range(0, len(images_NHWC), batch_size):
        pixels = torch.from_numpy(images_NHWC[start : start + batch_size]).permute(0, 3, 1, 2)
        maps = backbone.forward_features(normalise(pixels / 255).to(device))
        tokens = tokens_of(maps, backbone)
        if tokens is None:
            break
        order = generator.random(tokens.shape[:2]).argsort(axis=1)[:, :PATCHES_PER_IMAGE]
        rows = np.arange(len(tokens))[:, None]
        chunks.append(tokens.float().cpu().numpy()[rows, order].reshape(-1, tokens.shape[2]))
    backbone.train(was_training)
    return np.concatenate(chunks) if chunks else None


def tokens_of(maps: Any, backbone: Any) -> Tensor | None:
    """[N, places, E] of what timm's forward_features gives: [N, T, E], [N, E, H, W] or [N, H, W, E]."""
    if not isinstance(maps, Tensor) or maps.ndim not in (3, 4):
        return None
    if maps.ndim == 3:
        return maps[:, getattr(backbone, "num_prefix_tokens", 0) :]
    channels_last = str(getattr(backbone, "output_fmt", "NCHW")).endswith("NHWC")
    return maps.flatten(1, 2) if channels_last else maps.flatten(2).transpose(1, 2)


def evaluate(
    encoder: Encoder,
    preprocessing: Preprocessing,
    reference: tuple[Pixels, npt.NDArray[np.int64]],
    held_out: tuple[Pixels, npt.NDArray[np.int64]],
) -> Evaluation:
    """Measure on held-out crops; `reference` are training crops for the probes. Labels -1 are unknown."""
    images, labels = held_out
    embedding, projection = features(encoder, images, preprocessing)
    accuracy = linear = majority = None
    if len(np.unique(reference[1][reference[1] >= 0])) >= 2 and (labels >= 0).any():
        known = features(encoder, reference[0], preprocessing)[0]
        accuracy = knn_accuracy(known, reference[1], embedding, labels)
        linear = linear_accuracy(known, reference[1], embedding, labels)
        counts = np.bincount(labels[labels >= 0])
        majority = float(counts.max() / counts.sum())
    # As many tokens as images: the statistic grows with the sample.
    some = images[: -(-len(images) // PATCHES_PER_IMAGE)]
    patches = patch_features(encoder, some, preprocessing)
    return Evaluation(
        knn_accuracy=accuracy,
        linear_accuracy=linear,
        majority=majority,
        projection=isotropy.report(projection),
        embedding=isotropy.report(standardised(embedding), slices=128),
        patch=None
        if patches is None or len(patches) < 8
        else isotropy.report(standardised(patches[: len(images)]), slices=128),
        rankme=isotropy.entropy_rank(np.linalg.svd(embedding, compute_uv=False)),
    )


def standardised(x: Floats) -> npt.NDArray[np.float64]:
    """Mean 0, and one scale for all dims so that their mean variance is 1: only the shape is left."""
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    return centred / max(float(centred.std()), 1e-12)  # type: ignore[no-any-return]


Labels = npt.NDArray[np.int64]


def linear_accuracy(
    known: Floats, known_labels: Labels, asked: Floats, asked_labels: Labels
) -> float:
    """Accuracy of a logistic probe of one strength; rows labelled -1 are left out."""
    tested = asked_labels >= 0
    answer = linear_answers(known, known_labels, asked[tested])
    return float((answer == asked_labels[tested]).mean())


def linear_answers(known: Floats, known_labels: Labels, asked: Floats) -> Labels:
    """What a logistic probe of one strength says of each row asked; known rows labelled -1 are left out.

    Some tenths of a second for 1,024 x 512; `jepack probe` chooses the strength and takes all images.
    """
    kept = known_labels >= 0
    mean, scale = known[kept].mean(axis=0), known[kept].std(axis=0) + 1e-6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # bounded on purpose
        model = LogisticRegression(C=LINEAR_STRENGTH, max_iter=100)
        model.fit((known[kept] - mean) / scale, known_labels[kept])
    return model.predict((asked - mean) / scale)  # type: ignore[no-any-return]


def knn_accuracy(known: Floats, known_labels: Labels, asked: Floats, asked_labels: Labels) -> float:
    """Accuracy of `knn_answers`; rows labelled -1 are left out."""
    tested = asked_labels >= 0
    answer = knn_answers(known, known_labels, asked[tested])
    return float((answer == asked_labels[tested]).mean())


def knn_answers(known: Floats, known_labels: Labels, asked: Floats, k: int = 20) -> Labels:
    """A cosine-weighted vote among the k nearest; known rows labelled -1 are left out."""
    bank, labels = unit(known[known_labels >= 0]), known_labels[known_labels >= 0]
    return vote(unit(asked) @ bank.T, labels, k)
