"""I-JEPA: predict the features of hidden blocks from the visible patches (arXiv:2301.08243).

B images per rank, P patches, Kc context and Kt target patches, E embedding dims, W predictor width.
Written from the paper's description. A target encoder, the moving average of the context encoder,
sees the whole image; it is what is evaluated and kept.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from timm.models import checkpoint_seq
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from jepack.encoder import Encoder, Projector, ProjectorConfig
from jepack.errors import ConfigError
from jepack.sigreg import all_reduce_sum, world_size
from training.methods.lejepa import LossTerms
from training.methods.masks import MIN_GRID, TARGETS, Masks, draw_masks
from training.parallel import Ranks, no_buffer_sync, upload
from training.settings import TrainConfig
from training.views import Views

HEAD_DIMS = 32  # of the predictor's attention
NOTHING = 1e-6  # of a variance: a dim that is the same everywhere stays 0


class IJEPA:
    """The method: modules, and the gradients of a step."""

    has_teacher = True

    def __init__(self, encoder: Encoder, config: TrainConfig, here: Ranks) -> None:
        self.config, self.here = config, here
        vit = checked_vit(encoder.backbone, config)
        weight = vit.patch_embed.proj.weight
        self.grid: tuple[int, int] = vit.patch_embed.grid_size
        fix_positions(vit, self.grid, start=not (config.init or config.pretrained))
        predictor = Predictor(vit.embed_dim, config, self.grid).to(weight)
        self.pair: Any = ContextAndPredictor(vit, predictor).to(here.device)
        target = copy.deepcopy(vit).requires_grad_(False)
        head = fixed_projector(vit.embed_dim, config).to(weight)
        self.encoder = Encoder(target, head).to(here.device)
        self.trained: nn.Module = nn.ModuleDict({"pair": self.pair, "encoder": self.encoder})
        if here.world > 1:
            ids = [here.device.index] if here.device.type == "cuda" else None
            self.pair = DistributedDataParallel(self.pair, device_ids=ids, **no_buffer_sync())

    def after_step(self, progress: float) -> None:
        """Move the target towards the context encoder; `progress` in (0, 1] is the run's share done."""
        decay = target_decay(progress, self.config.target_ema)
        target: Any = self.encoder.backbone
        with torch.no_grad():
            for old, new in zip(
                target.parameters(), self._pair().context.parameters(), strict=True
            ):
                old.lerp_(new, 1 - decay)

    def backward(self, views: Views) -> LossTerms:
        """Adds the gradients of the whole step's loss. A mean over patches, so micro-batches add up."""
        images = views.global_views[0]
        masks = self.masks_of(views.step, len(images))
        size = len(images) // self.config.accumulate
        total = images.new_zeros((), dtype=torch.float64)
        for number, wanted in enumerate(self.wanted(images.split(size))):
            start = number * size
            last = start + size >= len(images)
            with nullcontext() if last or self.here.world == 1 else self.pair.no_sync():
                piece = masks.images(start, start + size)
                loss = self._loss(images[start : start + size], wanted, piece)
                (loss / self.config.accumulate).backward()
            total += loss.detach() / self.config.accumulate
        total = all_reduce_sum(total) / world_size()
        return LossTerms(total, total)

    def masks_of(self, step: int, images: int) -> Masks:
        """This rank's share of the step's masks."""
        everyone = draw_masks(images * self.here.world, self.grid, seed=self.config.seed, step=step)
        return everyone.images(self.here.rank * images, (self.here.rank + 1) * images)

    def _loss(self, images: Tensor, wanted_BPE: Tensor, masks: Masks) -> Tensor:
        context, targets = (upload(x, images.device) for x in (masks.context, masks.targets))
        wanted = at_targets(wanted_BPE, targets)
        with self._autocast():
            predicted = self.pair(images, context, targets)
        return F.smooth_l1_loss(predicted.to(wanted), wanted, beta=1.0)

    def wanted(self, micro_batches: Sequence[Tensor]) -> Iterable[Tensor]:
        """Of each micro-batch of this rank the target encoder's output, normalised, [B, P, E]."""
        outputs = (self._output(images) for images in micro_batches)
        if self.config.target_norm == "batch":
            return standardised(list(outputs))
        return (F.layer_norm(tokens, tokens.shape[-1:]) for tokens in outputs)

    @torch.no_grad()
    def _output(self, images: Tensor) -> Tensor:
        target: Any = self.encoder.backbone
        with self._autocast():
            tokens: Tensor = target.eval().forward_features(images)
        return tokens if tokens.dtype == torch.float64 else tokens.float()

    def _autocast(self) -> Any:
        return torch.autocast(
            self.here.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"
        )

    def _pair(self) -> ContextAndPredictor:
        pair = self.pair.module if self.here.world > 1 else self.pair
        assert isinstance(pair, ContextAndPredictor)
        return pair


class ContextAndPredictor(nn.Module):
    """Everything that has a gradient, in one forward, as DDP wants it."""

    def __init__(self, context: VisionTransformer, predictor: Predictor) -> None:
        super().__init__()
        self.context, self.predictor = context, predictor

    def forward(self, images: Tensor, seen: Tensor, targets: Tensor) -> Tensor:
        """[B, C, S, S], patch numbers [B, Kc] and [TARGETS, B, Kt] -> [TARGETS, B, Kt, E]."""
        predicted: Tensor = self.predictor(
            encode_patches(self.context, images, seen), seen, targets
        )
        return predicted


class Predictor(nn.Module):
    """A narrow ViT: context features and the places of a block -> the block's features."""

    positions: Tensor  # [P, W]

    def __init__(self, dims: int, config: TrainConfig, grid: tuple[int, int]) -> None:
        super().__init__()
        width = config.predictor_width
        if width % HEAD_DIMS:
            raise ConfigError(f"predictor_width must divide by {HEAD_DIMS}, found {width}")
        self.widen = nn.Linear(dims, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.register_buffer("positions", sincos(width, grid), persistent=False)
        self.blocks = nn.Sequential(
            *[
                Block(width, width // HEAD_DIMS, qkv_bias=True)
                for _ in range(config.predictor_depth)
            ]
        )
        self.norm = nn.LayerNorm(width)
        self.back = nn.Linear(width, dims)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)

    def forward(self, context: Tensor, seen: Tensor, targets: Tensor) -> Tensor:
        """[B, Kc, E], [B, Kc], [TARGETS, B, Kt] -> [TARGETS, B, Kt, E]; blocks do not see each other."""
        known = self.widen(context)
        known = known + self.positions[seen].to(known)
        asked = (self.mask_token + self.positions[targets]).to(known)
        count, images, patches = targets.shape
        known = known.expand(count, *known.shape).flatten(0, 1)
        x = torch.cat([known, asked.flatten(0, 1)], dim=1)
        x = self.norm(self.blocks(x)[:, -patches:])
        predicted: Tensor = self.back(x)
        return predicted.unflatten(0, (count, images))


def encode_patches(vit: VisionTransformer, images: Tensor, seen: Tensor) -> Tensor:
    """A ViT that sees only some patches of each image: [B, C, S, S], [B, Kc] -> [B, Kc, E]."""
    tokens = vit.patch_embed(images)
    if tokens.ndim == 4:  # timm keeps the grid when image sizes may vary
        tokens = tokens.flatten(1, 2)
    tokens = vit.norm_pre(vit.pos_drop(gather(tokens + vit.pos_embed, seen)))
    if vit.grad_checkpointing:
        tokens = checkpoint_seq(vit.blocks, tokens)
    else:
        tokens = vit.blocks(tokens)
    normed: Tensor = vit.norm(tokens)
    return normed


def standardised(pieces_BPE: list[Tensor]) -> list[Tensor]:
    """Less each place's mean over the images of the step, every dim to variance 1 over images and places.

    What all images share can then not be the answer, and what tells them apart keeps its size however
    little of the output it is. `pieces_BPE`: the micro-batches of this rank; the step is that of all ranks.
    """
    images = world_size() * sum(map(len, pieces_BPE))
    mean_PE = all_reduce_sum(torch.stack([x.sum(dim=0) for x in pieces_BPE]).sum(dim=0)) / images
    centred = [x - mean_PE for x in pieces_BPE]
    squares_E = torch.stack([x.square().sum(dim=(0, 1)) for x in centred]).sum(dim=0)
    variance_E = all_reduce_sum(squares_E) / (images * len(mean_PE))
    return [x / (variance_E + NOTHING).sqrt() for x in centred]


def gather(tokens_BPE: Tensor, chosen_BK: Tensor) -> Tensor:
    """[B, K, E]: each image's own patches."""
    index = chosen_BK[..., None].expand(-1, -1, tokens_BPE.shape[-1])
    return tokens_BPE.gather(1, index)


def at_targets(tokens_BPE: Tensor, targets: Tensor) -> Tensor:
    """[TARGETS, B, Kt, E] of the patches that `targets` [TARGETS, B, Kt] numbers."""
    return torch.stack([gather(tokens_BPE, block) for block in targets])


def target_decay(progress: float, ends: tuple[float, float]) -> float:
    """The target's EMA decay, linear over the run."""
    return ends[0] + (ends[1] - ends[0]) * progress


def sincos(width: int, grid: tuple[int, int]) -> Tensor:
    """[P, width] fixed positions: a quarter each sin and cos of the row and of the column."""
    rates = 10_000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    angles = [torch.from_numpy(axis.astype(np.float64))[:, None] * rates for axis in (column, row)]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1).float()


def fix_positions(vit: VisionTransformer, grid: tuple[int, int], *, start: bool) -> None:
    """Positions are not learnt; from scratch (`start`) they are sines and cosines."""
    assert vit.pos_embed is not None
    if start:
        with torch.no_grad():
            vit.pos_embed.copy_(sincos(vit.embed_dim, grid))
    vit.pos_embed.requires_grad_(False)


def fixed_projector(dims: int, config: TrainConfig) -> Projector:
    """An orthonormal map to watch for collapse through; the bundle gets one fitted on the images."""
    width = min(config.projection_dims, dims)
    head = Projector(ProjectorConfig(in_features=dims, out_features=width, layers=1))
    with torch.no_grad():
        nn.init.orthogonal_(head[0].weight)  # type: ignore[arg-type]
    return head.requires_grad_(False)


def checked_vit(backbone: nn.Module, config: TrainConfig) -> VisionTransformer:
    """The backbone, if it is a plain ViT without class token on a grid that masks fit into."""
    need = (
        "I-JEPA needs a plain timm ViT without class token and with average pooling: any name that "
        "timm.list_models(module='vision_transformer') gives, such as vit_tiny_patch16_224"
    )
    if not isinstance(backbone, VisionTransformer) or backbone.num_prefix_tokens:
        raise ConfigError(f"{need}; found {config.init or config.encoder}")
    if backbone.pos_embed is None or backbone.global_pool != "avg" or backbone.embed_dim % 4:
        raise ConfigError(f"{need}; found {config.init or config.encoder} with other settings")
    grid: tuple[int, int] = backbone.patch_embed.grid_size
    patch = backbone.patch_embed.patch_size[0]
    if config.size % patch:
        raise ConfigError(
            f"{config.size} px do not divide into patches of {patch}. Use --size "
            f"{config.size // patch * patch} or {(config.size // patch + 1) * patch}"
        )
    if min(grid) < MIN_GRID:
        raise ConfigError(
            f"I-JEPA masks blocks in a grid of at least {MIN_GRID} x {MIN_GRID} patches; {config.size} "
            f"px in patches of {patch} give {grid[0]} x {grid[1]}. Use --size {MIN_GRID * patch}, or "
            f"--set patch_size={max(2, math.floor(config.size / (MIN_GRID + 2)))}"
        )
    return backbone


__all__ = ["IJEPA", "TARGETS", "ContextAndPredictor", "Predictor", "draw_masks", "target_decay"]
