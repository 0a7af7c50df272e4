"""The loss that ranks the runs of a sweep; watch/score.py says how it differs from a run's own score.

It is taken on the same images, views and directions for every run, in batches as large as training's: SIGReg
grows with the batch, and 0.4 holds for batches of a few hundred. It compares runs of one projection width
and one regulariser only.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from jepack.encoder import Encoder
from training.methods import frozen_statistics, lejepa_loss, projections, regularisers
from training.run import Prepared
from training.settings import TrainConfig
from training.views import Views

SCORED_BATCHES = 4


def fixed_views(prepared: Prepared) -> list[Views]:
    """Some batches of views of training images, the same for every run of a sweep."""
    shared = replace(prepared, config=replace(prepared.config, accumulate=1, precision="fp32"))
    cutter, finisher = shared.cutter(), shared.finisher()
    return [finisher.finish(cutter.cut(step)) for step in range(SCORED_BATCHES)]


@torch.no_grad()
def ranking_loss(
    encoder: Encoder, batches: list[Views], config: TrainConfig, base: TrainConfig
) -> float:
    """The run's loss, with its own lambda, on views and directions that all runs share.

    BatchNorm normalises by the batch, as in training: with its running statistics the projections of
    a short run are far from N(0, I) (SIGReg 138 against 49 on digits), and that gap would rank.
    """
    encoder = encoder.cpu().float().train()
    regulariser = regularisers.build_regulariser(
        replace(config, seed=base.seed, slices=base.slices)
    )
    losses = []
    with frozen_statistics(encoder):
        for views in batches:
            z, count = projections(encoder, views), len(views.global_views)
            terms = lejepa_loss(z, count, regulariser, views.step, config.sigreg_weight)
            losses.append(terms.loss)
    encoder.eval()
    return float(torch.stack(losses).mean())
