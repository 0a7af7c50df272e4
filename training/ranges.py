"""What a data set's values mean for its pixels, said before hours are spent: range, nodata, channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jepack import preprocess
from jepack.errors import DataError, DependencyError
from jepack.images import ImageFile
from jepack.intensity import Raw, Window, narrow_span


@dataclass(frozen=True)
class Range:
    """What one image holds."""

    deep: bool  # more than 8 bits, with a fixed meaning
    narrow: tuple[float, float] | None  # its span, where that loses most of the 256 levels
    whole: float  # the top of its depth
    missing: float  # share of its values without data
    spare: int  # channels beyond red, green and blue


def range_of(raw: Raw) -> Range:
    missing = raw.missing
    top, span = narrow_span(raw)
    share = 0.0 if missing is None else float(missing.mean())
    spare = raw.values.shape[2] - 3 if raw.colour else 0
    return Range(top > 0, span, top, share, spare)


def cautions(
    files: Sequence[ImageFile], channels: int, window: Window, sample: int = 32
) -> list[str]:
    """Sentences about a sample of the images; none where nothing is unusual."""
    found = []
    for file in files[:: max(1, len(files) // sample)]:
        try:
            found.append(range_of(preprocess.read_raw(file.read())))
        except (DataError, DependencyError):
            continue
    return sentences(found, channels, window)


def sentences(ranges: Sequence[Range], channels: int | None, window: Window) -> list[str]:
    told = []
    if window is None and (lost := lost_levels(ranges)):
        told.append(lost)
    holed = [one.missing for one in ranges if one.missing]
    if holed:
        share = sum(holed) / len(ranges)
        told.append(
            f"nodata covers {share:.1%} of the values ({len(holed)} of {len(ranges)} images looked at): "
            "under a window it becomes 0 and is not measured"
            + ("" if window else "; without one, integers keep it as a value")
        )
    spare = max((one.spare for one in ranges), default=0)
    if spare > 0 and channels in (1, 3):
        told.append(
            f"the images hold {3 + spare} channels: the encoder of {channels} sees red, green and blue only"
        )
    return told


def lost_levels(ranges: Sequence[Range]) -> str | None:
    """What is lost without a window, and the window to take; None where the values fill their depth."""
    deep = [one for one in ranges if one.deep]
    spans = [one.narrow for one in deep if one.narrow]
    if not spans or len(spans) < len(deep):
        return None
    low, high, whole = (
        min(s[0] for s in spans),
        max(s[1] for s in spans),
        max(o.whole for o in deep),
    )
    if high - low >= 0.5 * whole:
        return None
    if whole == 1:
        levels, window = round(high * 255) - round(low * 255) + 1, f"{low:.4g},{high:.4g}"
    else:
        step = (int(whole) + 1) // 256
        levels = int(high) // step - int(low) // step + 1
        window = f"0,{(1 << int(high).bit_length()) - 1}"
    return (
        f"the values span {low:g}..{high:g} of 0..{whole:g} ({len(deep)} images looked at): without a window "
        f"they become {levels} of 256 levels. Take --window {window}, or --window p1,p99"
    )
