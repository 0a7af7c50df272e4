"""Whether a head's probabilities mean what they say: of what it gives 80 %, eight in ten should be so.

N images, C classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BINS = 10
LEAST = -100.0  # a probability of 0 is a finite mistake: an infinite one fits no temperature
TEMPERATURES = np.geomspace(0.25, 4, 49)
PRIOR = (
    4.0  # weight of log(temperature)^2 against the images' log losses: few of them move it little
)


def log_loss(shares_NC: npt.NDArray[np.floating], y_N: npt.NDArray[np.integer]) -> float:
    """Mean of -log of the true class's probability, nats."""
    own = shares_NC[np.arange(len(y_N)), y_N].astype(np.float64)
    return float(-np.log(np.maximum(own, 1e-12)).mean())


def calibration_error(shares_NC: npt.NDArray[np.floating], y_N: npt.NDArray[np.integer]) -> float:
    """How far the likeliest class's probability is from the share of right answers, by tenths of it,
    mean over images; 0 is calibrated.

    Of few images it is above 0 by chance. Source: Guo et al., arXiv:1706.04599.
    """
    sure = shares_NC.max(axis=1).astype(np.float64)
    right = shares_NC.argmax(axis=1) == y_N
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    apart = np.bincount(bins, sure - right, minlength=BINS)
    return float(np.abs(apart).sum() / len(y_N))


def temperature(logits_NC: npt.NDArray[np.floating], y_N: npt.NDArray[np.integer]) -> float:
    """What logits of unseen images are divided by so that softmax of them has the best log loss; near 1 where
    there are few. Source: Guo et al., arXiv:1706.04599, section 4.2."""
    z = logits_NC.astype(np.float64)
    z = np.maximum(z - z.max(axis=1, keepdims=True), LEAST)
    own = z[np.arange(len(y_N)), y_N]
    losses = [
        (np.log(np.exp(z / t).sum(axis=1)) - own / t).sum() + PRIOR * np.log(t) ** 2
        for t in TEMPERATURES
    ]
    return float(TEMPERATURES[int(np.argmin(losses))])
