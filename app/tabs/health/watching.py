"""Whether today's images are still like those the encoder was judged by, in words.

A gateway watches what it serves and tells it; else a visitor brings images, which stay theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import comb

import numpy as np

from app.asking import wilson
from jepack.client.address import address_of
from jepack.measures import Null, compare
from jepack.measures.null import ATYPICAL
from jepack.measures.scoring import Floats

CHANCE = 0.01  # that ordinary images alarm
MOST = 4096  # images of a visitor that are kept, the latest


@dataclass(frozen=True)
class Brought:
    """What of a visitor's images is kept: their projections [N, P], and names for those refused."""

    projections: tuple[Floats, ...] = ()
    fingerprint: str = ""
    refused: dict[str, str] = field(default_factory=dict)  # name: why


def is_gateway(place: str) -> bool:
    """Whether an engine's place is a gateway's address, which may watch its images."""
    try:
        return address_of(place).kind == "http"
    except Exception:
        return False


def of_images(null: Null, projections: Floats) -> tuple[str, str, list[str]]:
    """(kind, headline, sentences) of a visitor's images beside the null."""
    p_values = null.p_values(projections)
    count, atypical = len(p_values), int((p_values <= ATYPICAL).sum())
    low, high = wilson(atypical / count, count)
    share = (
        f"{atypical} of {images(count)} look atypical: as strange as the strangest 5 % of held-out images. "
        f"Of ordinary ones about 1 in 20 does; here it is {atypical / count:.0%} "
        f"(95 % interval {low:.0%} to {high:.0%})."
    )
    shortest = int(null.windows[0])
    if count < shortest:
        by_chance = tail(count, atypical)
        told = f"So many or more would come by chance in {percent(by_chance)} of such sets."
        rest = f"Weak drift shows from {shortest} images on: bring more of them."
        if by_chance <= CHANCE:
            return "bad", "These images are not like the ordinary ones", [share, told, rest]
        return "unknown", "Nothing strange in these few images", [share, told, rest]
    found = compare(null, projections, chance=CHANCE)
    shift = (
        f"On average they lie {found.mean_shift:.2f} standard deviations from where ordinary images do, "
        f"and spread {found.scale:.2f} times as widely (1 is ordinary)."
    )
    highest = max(found.windows.values())
    z = (
        f"The strongest sign is {highest:.1f} standard deviations of ordinary sets; above "
        f"{found.threshold:.1f} is called drift, which happens to ordinary images in 1 of 100 such sets."
    )
    if found.drift:
        looks = (
            [f"They look most like images that are {found.likeliest}."] if found.likeliest else []
        )
        return "bad", "These images have drifted", [share, shift, z, *looks]
    return "good", "No drift in these images", [share, shift, z]


def tail(count: int, at_least: int) -> float:
    """The chance of so many atypical images or more among ordinary ones."""
    p = ATYPICAL
    below = sum(comb(count, k) * p**k * (1 - p) ** (count - k) for k in range(at_least))
    return max(0.0, 1 - below)


def percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "less than 1 %"


def images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"


def stacked(brought: Brought) -> Floats:
    """The latest MOST of them, [N, P]."""
    return np.concatenate(brought.projections)[-MOST:]
