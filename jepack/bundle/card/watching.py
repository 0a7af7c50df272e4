"""The card's section on the null: what watching this encoder rests on."""

from __future__ import annotations

from pathlib import Path

from jepack.bundle.ordinary import read_null
from jepack.measures import FAULTS

SHOWN = (100_000, 1_000_000, 10_000_000)  # images to one false alarm


def section(folder: Path) -> str:
    """How many images the null rests on, and when its alarm speaks."""
    null = read_null(folder)
    if null is None:
        return (
            "## Watching\nNot measured: `jepack export BUNDLE --data IMAGES` writes a null of 64 or more "
            "held-out images, which atypicality and drift alarms need."
        )
    count = f"{null.held_out:,}"
    looks = [FAULTS[number] for number in ([] if null.known is None else null.known)]
    known = f"It knows the look of these faults: {', '.join(looks)}. " if looks else ""
    lengths = f"{null.windows[0]:,} to {null.windows[-1]:,}"
    thresholds = ", ".join(f"{null.threshold(count):.1f} ({count:,})" for count in SHOWN)
    return (
        f"## Watching\n`null.safetensors` holds what ordinary images look like, in {null.cosines.size} "
        "means of cosines and as many of sines along fixed directions, and sorted norms: no image, no "
        f"embedding. It rests on {count} held-out images. {known}\n\n"
        f"- Drift is looked for in windows of {lengths} images; it alarms above z = {thresholds}, the "
        "images between two false alarms in brackets.\n"
        f"- The atypicality of an image is a p-value, at least {1 / (1 + len(null.scores)):.4f}: a share p "
        "of ordinary images has p or less.\n"
        "- `jepack drift BUNDLE IMAGES` compares a set of images with it."
    )
