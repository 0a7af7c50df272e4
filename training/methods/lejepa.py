"""LeJEPA: predict the centre of the global views, keep projections isotropic (arXiv:2511.08544).

V views (the first Vg global), B images per rank, E embedding dims, D projection dims.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from jepack.encoder import Encoder
from jepack.sigreg import all_reduce_sum, world_size
from training.methods import regularisers
from training.parallel import Ranks, compiling, no_buffer_sync, sharding, synchronise_batchnorm
from training.settings import TrainConfig
from training.views import Views


@dataclass(frozen=True)
class LossTerms:
    """The loss of a step over all ranks, and what it is made of."""

    loss: Tensor
    prediction: Tensor
    regulariser: Tensor | None = None  # None where the method has none

    def tensors(self) -> dict[str, Tensor]:
        """Scalars on the device, those that the method has."""
        terms = {"loss": self.loss, "prediction": self.prediction, "regulariser": self.regulariser}
        return {name: term.detach() for name, term in terms.items() if term is not None}

    def floats(self) -> dict[str, float]:
        """The same as numbers; waits for the device."""
        tensors = self.tensors()
        return dict(zip(tensors, torch.stack(list(tensors.values())).tolist(), strict=True))


def lejepa_loss(
    z_VBD: Tensor,
    global_views: int,
    regulariser: regularisers.Regulariser,
    step: int,
    weight: float,
) -> LossTerms:
    """(1 - weight) * prediction + weight * regulariser, in float32 or wider.

    Prediction: mean squared distance of every view to the mean of the image's global views, with
    gradient through that mean. The same number on every rank.
    """
    z = z_VBD if z_VBD.dtype == torch.float64 else z_VBD.float()
    centres_BD = z[:global_views].mean(dim=0)
    prediction = (z - centres_BD).square().mean()
    prediction = all_reduce_sum(prediction) / world_size()
    regular = regulariser(z, step)
    return LossTerms((1 - weight) * prediction + weight * regular, prediction, regular)


class Embedder(nn.Module):
    """Global and local views through one backbone in one forward, as DDP wants it."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, global_views: Tensor, local_views: Tensor | None) -> Tensor:
        """[Vg, B, C, S, S], [Vl, B, C, s, s] or None -> [V, B, E]."""
        embeddings = []
        for views in (global_views, local_views):
            if views is not None:
                flat = views.flatten(0, 1).contiguous(memory_format=torch.channels_last)
                embeddings.append(self.backbone(flat).unflatten(0, views.shape[:2]))
        return torch.cat(embeddings) if len(embeddings) > 1 else embeddings[0]


def projections(encoder: Encoder, views: Views) -> Tensor:
    """[V, B, D] of one process, as the loss takes them; the views lie where the encoder does."""
    embedding = Embedder(encoder.backbone)(views.global_views, views.local_views)
    z: Tensor = encoder.projector(embedding.flatten(0, 1))
    return z.unflatten(0, embedding.shape[:2])


class LeJEPA:
    """The method: modules, and the gradients of a step."""

    has_teacher = False

    def __init__(self, encoder: Encoder, config: TrainConfig, here: Ranks) -> None:
        self.config, self.here = config, here
        self.encoder = encoder.to(here.device)
        self.sharded = config.sharding == "fsdp"
        if not self.sharded:  # FSDP2 takes plainly laid out weights only
            self.encoder.to(memory_format=torch.channels_last)
        synchronise_batchnorm(self.encoder)
        self.regulariser = regularisers.build_regulariser(config)
        self.embedder: Any = Embedder(self.encoder.backbone)
        self.projector: Any = self.encoder.projector
        if config.compile:
            compiling.compile_in_place(self.embedder, here.device)
        if here.world > 1 and not self.sharded:
            # Buffers are equal on all ranks already: BatchNorm sees the global batch.
            ids = [here.device.index] if here.device.type == "cuda" else None
            wrap: Any = {"device_ids": ids, **no_buffer_sync()}
            self.embedder = DistributedDataParallel(self.embedder, **wrap)
            self.projector = DistributedDataParallel(self.projector, **wrap)

    @property
    def trained(self) -> nn.Module:
        """The module whose parameters the optimizer owns and checkpoints keep."""
        return self.encoder

    def shard(self) -> None:
        """Split the weights over the ranks, in place of DDP. Before the optimizer is made."""
        sharding.shard(self.embedder, self.here.device)
        sharding.shard(self.projector, self.here.device)

    def after_step(self, progress: float) -> None:
        """Nothing to do: LeJEPA has no teacher."""

    def backward(self, views: Views) -> LossTerms:
        """Adds the gradients of the whole step's loss to the parameters."""
        if self.config.accumulate == 1:
            with self._autocast():
                embedding = self.embedder(views.global_views, views.local_views)
            terms = self._loss(embedding, views.step)
            with self._repeating():
                terms.loss.backward()
            return terms
        return self._backward_in_pieces(views)

    def _loss(self, embedding_VBE: Tensor, step: int) -> LossTerms:
        with self._autocast():
            z = self.projector(embedding_VBE.flatten(0, 1)).unflatten(0, embedding_VBE.shape[:2])
        return lejepa_loss(
            z, self.config.global_views, self.regulariser, step, self.config.sigreg_weight
        )

    def _backward_in_pieces(self, views: Views) -> LossTerms:
        """The gradient of the big batch with the memory of a micro-batch.

        SIGReg is not a mean over images, so micro-batch losses must not be added up. First all
        embeddings without gradient, then the loss of the whole step and its gradient at the
        embeddings, then each micro-batch again with that gradient. Exact where the backbone has no
        BatchNorm; a BatchNorm sees a micro-batch.
        """
        size = views.images // self.config.accumulate
        starts = range(0, views.images, size)
        pieces = []
        with torch.no_grad(), frozen_statistics(self.encoder.backbone):
            for start in starts:
                pieces.append(self._embed(views, start, size, sync=True).detach())
        embedding = torch.cat(pieces, dim=1).requires_grad_()
        terms = self._loss(embedding, views.step)
        terms.loss.backward()
        assert embedding.grad is not None
        for start in starts:
            sync = start == starts[-1]
            piece = self._embed(views, start, size, sync=sync)
            with self._syncing(sync), self._repeating():
                piece.backward(embedding.grad[:, start : start + size])
        return terms

    def _embed(self, views: Views, start: int, size: int, *, sync: bool) -> Tensor:
        piece = views.micro(start, start + size)
        torch.manual_seed(hash((self.config.seed, views.step, start, self.here.rank)) % (1 << 31))
        wrapped = torch.is_grad_enabled() or self.sharded  # DDP would prepare for a backward pass
        module = self.embedder if wrapped else Embedder(self.encoder.backbone)
        with self._syncing(sync), self._autocast():
            embedding: Tensor = module(piece.global_views, piece.local_views)
        return embedding

    def _repeating(self) -> Any:
        """Activation checkpointing runs blocks a second time, in the backward pass: BatchNorm has counted
        this batch by then."""
        if self.config.activation_checkpointing:
            return frozen_statistics(self.encoder.backbone)
        return nullcontext()

    def _syncing(self, sync: bool) -> Any:
        if sync or not isinstance(self.embedder, DistributedDataParallel):
            return nullcontext()
        return self.embedder.no_sync()

    def _autocast(self) -> Any:
        return torch.autocast(
            self.here.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"
        )


@contextmanager
def batch_norms_with(module: nn.Module, **attributes: Any) -> Iterator[None]:
    """Every BatchNorm of a module has these attributes inside the block, and its own after it."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    own = [{name: getattr(norm, name) for name in attributes} for norm in norms]
    try:
        for norm in norms:
            set_each(norm, attributes)
        yield
    finally:
        for norm, values in zip(norms, own, strict=True):
            set_each(norm, values)


def set_each(norm: nn.Module, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        setattr(norm, name, value)


def frozen_statistics(module: nn.Module) -> AbstractContextManager[None]:
    """BatchNorm normalises by the batch but leaves its running statistics alone."""
    return batch_norms_with(module, momentum=0.0)
