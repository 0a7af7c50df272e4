"""Whether an image belongs here: how unusual it is, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.scale import FAR, LEAST, Scale
from app.store import Hit

COPY = 1e-6  # cosine distance of the same pixels; float32 leaves 1e-7


@dataclass(frozen=True)
class Belonging:
    """`kind`: "usual", "far", "strange" (it does not belong) or "unknown"."""

    kind: str
    headline: str
    reasons: tuple[str, ...] = ()
    rarity: float | None = None  # of its nearest distance among the index's own, a p-value
    atypicality: float | None = None  # of its projection under the bundle's null, a p-value


def judge(
    scale: Scale | None,
    hits: Sequence[Hit],
    atypicality: float | None,
    *,
    new: bool,
    cropped: bool = False,
) -> Belonging:
    """`new`: an image from outside; else one of the index, whose hits are the others. `cropped`: the encoder
    sees a part of it alone.

    An image is strange when its nearest distance or its projection is so at 1 %. Of ordinary images that
    is said of about one in a hundred by either.
    """
    nearest = hits[0].distance if hits else None
    if scale is None or nearest is None:
        if atypicality is not None and atypicality <= 0.01:
            return Belonging(
                "strange", STRANGE_TO_ENCODER, (under_null(atypicality),), None, atypicality
            )
        return Belonging("unknown", UNKNOWN, (WHEN_KNOWN,), None, atypicality)
    rarity = scale.rarity(nearest)
    reasons = (at_distance(scale, nearest), *([under_null(atypicality)] if atypicality else []))
    if rarity <= scale.unusual:
        headline = "Nothing here looks like this" if new else "Nothing else here looks like this"
        return Belonging("strange", headline, reasons, rarity, atypicality)
    if atypicality is not None and atypicality <= 0.01:
        return Belonging("strange", STRANGE_TO_ENCODER, reasons, rarity, atypicality)
    if rarity <= FAR:
        return Belonging("far", "Only distant likenesses", reasons, rarity, atypicality)
    copy = "The part that the encoder sees is here" if cropped else "A copy is here"
    headline = copy if nearest <= COPY else "Looks like what is here"
    return Belonging("usual", headline, reasons, rarity, atypicality)


UNKNOWN = "How unusual this is, is not known."
WHEN_KNOWN = f"It takes {LEAST} images or more, once their own distances are measured."
STRANGE_TO_ENCODER = "Not like the images this encoder was judged by"


def at_distance(scale: Scale, nearest: float) -> str:
    """How many of the index's own images are less alone, as a sentence."""
    if nearest <= COPY:
        return "The nearest image is at distance 0."
    share = float(np.searchsorted(scale.nearest, nearest, side="left")) / len(scale.nearest)
    if share >= 1:
        return "Every image here has a nearer neighbour than this one."
    if share <= 0:
        return "No image here has a nearer neighbour than this one."
    amount = f"{100 * share:.0f} %" if 0.01 <= share < 0.995 else f"{100 * share:.1f} %"
    return f"{amount} of the images here have a nearer neighbour than this one."


def under_null(p: float) -> str:
    """The p-value with its meaning."""
    share = f"{100 * p:.0f} in 100" if p >= 0.015 else "1 in 100 or fewer"
    return f"Of ordinary images {share} are as strange to the encoder (p = {p:.2g})."
