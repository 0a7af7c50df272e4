"""What is looked at while a run goes: figures on fixed images, and whether it has collapsed.

V views, B images, D projection dims.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from jepack.encoder import Encoder
from jepack.errors import TrainingError
from jepack.sources import class_ids
from training.run import Prepared, Session, told
from training.watch.evaluation import Evaluation, crops, evaluate
from training.watch.monitor import Monitor
from training.watch.score import LabelFreeScore

EVALUATED_IMAGES = 1024
YOUNG_STEPS = 30


class Checker:
    """Evaluates on fixed images and stops a run that collapsed. Lives on the first rank only."""

    def __init__(self, prepared: Prepared) -> None:
        self.config = config = prepared.config
        self.preprocessing = replace(prepared.preprocessing, size=config.size)
        images, split = prepared.images, prepared.split
        self.score = LabelFreeScore(config, images, split.train, prepared.preprocessing)
        ids = class_ids(images.files)
        generator = np.random.default_rng([config.seed, 3])

        def some(indices: Any) -> Any:
            chosen = generator.permutation(indices)[:EVALUATED_IMAGES]
            pixels, kept = crops(images, chosen, self.preprocessing)
            return pixels, ids[kept]

        self.reference, self.held_out = some(split.train), some(split.held_out)

    def check(self, session: Session, encoder: Encoder, watcher: Monitor) -> Evaluation:
        """Evaluate `encoder`, tell the watcher; TrainingError when its projections have collapsed."""
        state = session.state
        evaluation = evaluate(encoder, self.preprocessing, self.reference, self.held_out)
        watcher.evaluation(state.step, evaluation.figures() | self.score.figures(encoder))
        report = evaluation.projection
        young = state.step < max(YOUNG_STEPS, self.config.warmup_fraction * state.total)
        if young:  # the projections of the first steps look collapsed in every run
            return evaluation
        if report.variance < 1e-8 or (report.effective_rank < 1.2 and report.dimensions > 4):
            raise TrainingError(
                f"step {state.step}: the projections have collapsed (effective rank "
                f"{report.effective_rank:.2f} of {report.dimensions}, variance {report.variance:.2g}; "
                f"{told(session.losses)}). {session.last_good()} Try a larger --sigreg-weight, "
                "more --images-per-step, or a lower --learning-rate."
            )
        return evaluation
