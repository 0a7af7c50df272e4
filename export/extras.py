"""Optional further outputs of the ONNX exports: unit-length vectors, tokens before pooling, probabilities.

They come after `pooler_output` and `projection`, so whoever takes outputs by name or by place is served as
before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.evaluation import Evaluation
from export.gates import Parity, Verdict
from export.providers import session_options
from jepack.bundle import OUTPUTS, Probe, cosine
from jepack.encoder import EncoderGraph

# asked for by: names of the outputs
EXTRAS = {
    "normalized": ("pooler_output_normalized", "projection_normalized"),
    "tokens": ("last_hidden_state",),
}
MOST = 32  # images that the extra outputs are compared on: tokens are large


class WithExtras(nn.Module):
    """The graph of every export with more outputs behind its two.

    Tokens are what timm's `forward_features` gives and transformers calls `last_hidden_state`:
    [B, T, E] for ViTs (class and register tokens first), [B, E, h, w] for convolutional encoders. Each of the
    bundle's `probes` gives `probe_NAME`, [B, C], rows that add up to 1.
    """

    def __init__(
        self, graph: EncoderGraph, extras: Sequence[str], probes: Sequence[Probe] = ()
    ) -> None:
        super().__init__()
        self.encoder, self.extras = graph, tuple(extras)
        self.probes = nn.ModuleList([linear_of(one) for one in probes])
        self.probe_names = tuple(one.name for one in probes)
        self.read = tuple(OUTPUTS.index(one.output) for one in probes)  # by each probe

    @property
    def names(self) -> tuple[str, ...]:
        extras = [name for extra in self.extras for name in EXTRAS[extra]]
        return (*extras, *(f"probe_{name}" for name in self.probe_names))

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        backbone: Any = self.encoder.backbone
        tokens = backbone.forward_features(self.encoder.normalise(pixel_values))
        embedding = backbone.forward_head(tokens)
        projection = self.encoder.projector(embedding)
        outputs = {
            "normalized": (F.normalize(embedding, dim=-1), F.normalize(projection, dim=-1)),
            "tokens": (tokens,),
        }
        more = [value for name in self.extras for value in outputs[name]]
        rows = (embedding, projection)
        shares = [
            torch.softmax(head(rows[at]), dim=-1)
            for head, at in zip(self.probes, self.read, strict=True)
        ]
        return (*rows, *more, *shares)


def linear_of(probe: Probe) -> nn.Linear:
    """Its affine map in one: weight / scale, and a bias that takes the mean along."""
    weight_CD = probe.weight_CD.astype(np.float64) / probe.scale_D
    bias_C = probe.bias_C - weight_CD @ probe.mean_D.astype(np.float64)
    made = nn.Linear(weight_CD.shape[1], weight_CD.shape[0])
    with torch.no_grad():
        made.weight.copy_(torch.from_numpy(weight_CD))
        made.bias.copy_(torch.from_numpy(bias_C))
    return made.requires_grad_(False)


def compare_extras(
    module: WithExtras, path: Path, evaluation: Evaluation
) -> dict[str, dict[str, float]]:
    """Per extra output: how far the file is from PyTorch."""
    images = evaluation.images[:MOST]
    session = onnxruntime.InferenceSession(
        path, session_options(), providers=["CPUExecutionProvider"]
    )
    answers = session.run(list(module.names), {"pixel_values": images})
    with torch.inference_mode():
        wanted = module(torch.from_numpy(images))[2:]
    result = {}
    for name, tensor, other in zip(module.names, wanted, answers, strict=True):
        a, b = (np.asarray(x, np.float64).reshape(len(images), -1) for x in (tensor, other))
        same = tuple(tensor.shape) == other.shape
        difference = float(np.abs(a - b).max()) if same and np.isfinite(b).all() else float("inf")
        result[name] = {
            "max_abs": difference,
            "max_relative": difference / max(float(np.sqrt(np.mean(a**2))), 1e-30),
            "cosine": float(cosine(a, b).min()) if np.isfinite(difference) else -1.0,
        }
    return result


def judge_extras(file: str, parity: dict[str, dict[str, float]], limits: Parity) -> Verdict:
    """The same limits as for the two outputs, but for those of distribution and neighbours."""
    refusals = []
    for name, figures in parity.items():
        if not figures["max_relative"] <= limits.max_relative:
            refusals.append(
                f"{file}: {name}: largest difference over the size {figures['max_relative']:.4g} "
                f"(at most {limits.max_relative:g})"
            )
        if not figures["cosine"] >= limits.cosine:
            refusals.append(
                f"{file}: {name}: smallest cosine {figures['cosine']:.4g} (at least {limits.cosine:g})"
            )
    return Verdict(refusals)
