"""Ways to pool the maps of a frozen encoder, for `benchmarks.pooling`. None of them sees a held-out image.

V views, B images, C channels, H x W cells of a map, Q queries, E features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler
from timm.layers import SelectAdaptivePool2d
from torch import Tensor, nn

from jepack.decoding import Preprocessing
from jepack.sigreg import random_directions, sigreg
from training.commands.probe import logistic
from training.methods import lejepa_loss
from training.settings import preset
from training.views import Normalise, crop_boxes, cut_views, draw

TIMMS = {"mean": "avg", "maximum": "max", "avgmax": "avgmax", "catavgmax": "catavgmax"}
POWERS = (1.0, 2.0, 3.0, 5.0, 10.0)
QUERIES, WIDEST = (1, 4), 2560  # as many queries as give no more features than this
VIEWS, STEPS, BATCH, SLICES, PROJECTION = 2, 200, 128, 256, 64


class Maps:
    """A frozen backbone's maps of all images: the last, and mean and maximum of the last four stages."""

    def __init__(self, backbone: Any, pixels: Any, look: Preprocessing) -> None:
        last, pooled = [], []
        for x in batches(pixels, look):
            with torch.no_grad():
                end, stages = backbone.forward_intermediates(x)
            last.append(end)
            pooled.append([(one.mean((2, 3)), one.amax((2, 3))) for one in stages[-4:]])
        self.last = torch.cat(last)  # [B, C, H, W]
        self.means, self.maxima = (
            [torch.cat([batch[stage][which] for batch in pooled]) for stage in range(4)]
            for which in (0, 1)
        )

    @property
    def cells(self) -> int:
        return self.last.shape[2] * self.last.shape[3]


def batches(pixels_BHWC: Any, look: Preprocessing) -> Iterator[Tensor]:
    normalise = Normalise(look.mean, look.std)
    for start in range(0, len(pixels_BHWC), 64):
        pixels = torch.from_numpy(pixels_BHWC[start : start + 64]).permute(0, 3, 1, 2) / 255
        yield normalise(pixels)


def generalised_mean(maps_BCHW: Tensor, power: float) -> Tensor:
    """[B, C]: (mean of x^p)^(1/p); 1 is the mean, large is the maximum. For maps that are never negative."""
    x = maps_BCHW.double().clamp(min=1e-6)  # float32 loses x^10
    return x.pow(power).mean((2, 3)).pow(1 / power).float()


class Attention(nn.Module):
    """[B, C, H, W] -> [B, Q C]: Q learnt queries, each a softmax over the cells."""

    def __init__(self, channels: int, queries: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, elementwise_affine=False)
        self.queries = nn.Parameter(torch.randn(queries, channels) * 0.02)

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        cells = maps_BCHW.flatten(2).transpose(1, 2)
        weights = (self.norm(cells) @ self.queries.T).softmax(dim=1)
        return (weights.transpose(1, 2) @ cells).flatten(1)


def fitted_attention(maps_VBCHW: Tensor, queries: int, weight: float, seed: int) -> Attention:
    """Fitted without labels: LeJEPA's loss of a linear projection of what it pools from views' maps."""

    def isotropy(z_VBD: Tensor, step: int) -> Tensor:
        return sigreg(z_VBD, random_directions(PROJECTION, SLICES, step, seed=seed))

    torch.manual_seed(seed)
    views, images, channels = maps_VBCHW.shape[:3]
    pool = Attention(channels, queries)
    width = queries * channels
    head = nn.Sequential(nn.BatchNorm1d(width, affine=False), nn.Linear(width, PROJECTION))
    optimizer = torch.optim.AdamW(
        [{"params": pool.parameters(), "lr": 1e-2}, {"params": head.parameters(), "lr": 1e-3}]
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        some = maps_VBCHW[:, torch.randperm(images)[:BATCH]].float()
        z = head(pool(some.flatten(0, 1))).unflatten(0, (views, -1))
        loss = lejepa_loss(z, views, isotropy, step, weight).loss
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return pool.eval()


def maps_of_views(backbone: Any, pixels: Any, look: Preprocessing, run: dict[str, Any]) -> Tensor:
    """[V, B, C, H, W] bfloat16 of two views of each image, cut and lit as the run's, of the served size."""
    chosen = preset(run["preset"], run["view_overrides"])
    shapes = np.array([pixels.shape[1:3]] * len(pixels))
    numbers = draw(VIEWS, len(pixels), seed=run["seed"], step=0, preset=chosen)
    boxes = crop_boxes(shapes, numbers, look.size, chosen.global_scale, chosen)
    views = cut_views(list(pixels), boxes, numbers=numbers, preset=chosen)
    found = []
    for x in batches(views.reshape(-1, *views.shape[2:]), look):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            found.append(backbone.forward_features(x).bfloat16())
    return torch.cat(found).unflatten(0, (VIEWS, -1))


def chosen_power(maps: Maps, y: Any, train: Any, groups: Any) -> float:
    """The power whose linear probe does best in cross-validation, by groups, inside the training part."""
    means = []
    for power in POWERS:
        x = StandardScaler().fit_transform(generalised_mean(maps.last[train], power).numpy())
        folds = GroupKFold(3, shuffle=True, random_state=0).split(x, y[train], groups[train])
        told = [logistic(x[a], y[train][a], 0.1).score(x[b], y[train][b]) for a, b in folds]
        means.append(np.mean(told))
    return POWERS[int(np.argmax(means))]


def in_last_map(maps: Maps, power: float) -> dict[str, Tensor]:
    found = {
        name: SelectAdaptivePool2d(pool_type=kind, flatten=True)(maps.last)
        for name, kind in TIMMS.items()
    }
    found["generalised mean, p = 3"] = generalised_mean(maps.last, 3)
    found["generalised mean, p chosen"] = generalised_mean(maps.last, power)
    return found


def in_stages(maps: Maps) -> dict[str, Tensor]:
    found = {f"mean of stage {number + 1}": one for number, one in enumerate(maps.means)}
    both = [part for pair in zip(maps.means, maps.maxima, strict=True) for part in pair]
    return {**found, "all stages, mean and maximum": torch.cat(both, dim=1)}


def poolings(
    backbone: Any, pixels: Any, y: Any, train: Any, groups: Any,
    look: Preprocessing, run: dict[str, Any],
) -> tuple[dict[str, Tensor], dict[str, Any]]:  # fmt: skip
    """(name -> [B, E], facts). What is chosen or fitted has seen the training part alone."""
    maps = Maps(backbone, pixels, look)
    facts = {"cells": maps.cells}
    if maps.cells == 1:  # every pooling of the last map is its one cell
        return {"mean": maps.last.flatten(1), **in_stages(maps)}, facts
    power = chosen_power(maps, y, train, groups)
    print(f"seed {run['seed']}, {look.size} px: of {POWERS} p = {power:g} chosen")
    found = in_last_map(maps, power)
    views = maps_of_views(backbone, pixels[train], look, run)
    for queries in (some for some in QUERIES if some * views.shape[2] <= WIDEST):
        pool = fitted_attention(views, queries, run["sigreg_weight"], run["seed"])
        with torch.no_grad():
            found[f"attention, learnt queries: {queries}"] = pool(maps.last)
    return {**found, **in_stages(maps)}, facts
