"""The label-free score: loss / lambda^0.4, lower is better. Source: arXiv:2511.08544, section 6.

Two are told, and a figure of one says nothing beside a figure of the other:

- of a moment, `LabelFreeScore`: while a run goes, on one batch of at most 256 images that stays the same,
  with 256 directions in float64, dropout off. It compares moments of a run.
- of a run, `ranking_loss` in commands/ranking.py: of its bundle, on 4 batches as large as training's that all
  runs share, with as many directions as training in float32, dropout on. It compares the runs of a sweep.

What they share is here and in methods/lejepa.py (`projections`); in both BatchNorm normalises by the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from jepack.decoding import Preprocessing
from jepack.encoder import Encoder
from jepack.measures import isotropy
from training.data import Images
from training.methods import batch_norms_with, projections
from training.settings import TrainConfig
from training.views import Cutter, Finisher, preset

SCORED_IMAGES = 256  # SIGReg grows with the batch, and the power 0.4 holds for a few hundred
SCORED_SLICES = 256
LAMBDA_POWER = 0.4


def over_lambda(loss: float, weight: float) -> float:
    """The score of a loss whose lambda (`sigreg_weight`) is `weight`."""
    return loss / weight**LAMBDA_POWER


class LabelFreeScore:
    """On images, views and directions that stay the same for the whole run.

    Compares moments of a run, and runs that differ in nothing that the score depends on (projection dims,
    images per step, views). LeJEPA with SIGReg only.
    """

    def __init__(
        self,
        config: TrainConfig,
        images: Images,
        train: npt.NDArray[np.int64],
        preprocessing: Preprocessing,
    ) -> None:
        self.config = replace(
            config, images_per_step=min(config.images_per_step, SCORED_IMAGES), accumulate=1
        )
        self.preprocessing = preprocessing
        self.preset = preset(config.preset, config.view_overrides)
        self.cutter = Cutter(images, train, self.config, self.preset, preprocessing=preprocessing)

    def figures(self, encoder: Encoder) -> dict[str, float]:
        """{"score": ...}, empty where the method has no such loss."""
        if self.config.method != "lejepa" or self.config.regulariser != "sigreg":
            return {}
        return {"score": over_lambda(self.loss(encoder), self.config.sigreg_weight)}

    @torch.no_grad()
    def loss(self, encoder: Encoder) -> float:
        config, device = self.config, next(encoder.parameters()).device
        mean, std = self.preprocessing.mean, self.preprocessing.std
        finisher = Finisher(config, self.preset, mean, std, torch.device("cpu"))
        with torch.random.fork_rng(), batch_statistics(encoder, self.config.frozen_norms):
            torch.manual_seed(config.seed)  # some presets add noise
            views = finisher.finish(self.cutter.cut(0))
            z = projections(encoder, views.to(device))
        z_VBD = z.double().cpu().numpy()
        prediction = np.square(z_VBD - z_VBD[: config.global_views].mean(axis=0)).mean()
        directions = isotropy.random_directions(z_VBD.shape[2], SCORED_SLICES, config.seed)
        statistic = np.mean([isotropy.sliced_statistic(z_BD, directions) for z_BD in z_VBD])
        return float((1 - config.sigreg_weight) * prediction + config.sigreg_weight * statistic)


@contextmanager
def batch_statistics(encoder: Encoder, frozen_norms: bool = False) -> Iterator[None]:
    """Evaluation in which BatchNorm normalises by the batch, as in training, and learns nothing.

    With its running figures the projections of a short run are far from N(0, I) (SIGReg 138 against 49
    on digits). Dropout is off, and a BatchNorm over all ranks waits for nobody. With `frozen_norms` the
    backbone's are as they are, as in training.
    """

    training = encoder.training
    encoder.eval()
    normed = encoder.projector if frozen_norms else encoder
    try:
        with batch_norms_with(normed, running_mean=None, running_var=None):
            yield
    finally:
        encoder.train(training)
