"""What a data set's values mean for its pixels, said before hours are spent: range, nodata, channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jepack.decoding import NARROW, Raw, Window, narrow_span, preprocess
from jepack.errors import DataError, DependencyError
from jepack.sources import ImageFile


@dataclass(frozen=True)
class Range:
    """What one image holds."""

    deep: bool  # more than 8 bits, with a fixed meaning
    narrow: tuple[float, float] | None  # its span, where that loses most of the 256 levels
    whole: float  # the top of its depth
    missing: float  # share of its values without data
    spare: int  # channels beyond red, green and blue
    reduced: bool = False  # 8 bits of a file that holds more


def range_of(raw: Raw) -> Range:
    missing = raw.missing
    top, span = narrow_span(raw)
    share = 0.0 if missing is None else float(missing.mean())
    spare = raw.values.shape[2] - 3 if raw.colour else 0
    return Range(top > 0, span, top, share, spare, raw.reduced)


def cautions(
    files: Sequence[ImageFile], channels: int, window: Window, sample: int = 32
) -> list[str]:
    """Sentences about a sample of the images; none where nothing is unusual."""
    ranges = []
    for file in files[:: max(1, len(files) // sample)]:
        try:
            ranges.append(range_of(preprocess.read_raw(file.read(), windowed=False)))
        except (DataError, DependencyError):
            continue
    return sentences(ranges, channels, window)


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
    reduced = sum(one.reduced for one in ranges)
    if reduced:
        told.append(
            f"{reduced} of {len(ranges)} images looked at hold colour of more than 8 bits, of which 8 are "
            "kept; a window refuses them. Save them as TIFF or npy to use all"
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
        levels = round(high * 255) - round(low * 255) + 1
        ends = written(low, high)
        span = "..".join(ends)
    else:
        step = (int(whole) + 1) // 256
        levels = int(high) // step - int(low) // step + 1
        top = (1 << int(high).bit_length()) - 1  # of 12-bit values 4095
        filled = high - low >= NARROW * top
        span = f"{low:.0f}..{high:.0f}"
        ends = ("0", f"{top}") if filled else (f"{low:.0f}", f"{high:.0f}")
    return (
        f"the values span {span} of 0..{whole:g} ({len(deep)} images looked at): without a window "
        f"they become {levels} of 256 levels. Take --window {','.join(ends)}, or --window p1,p99"
    )


def written(low: float, high: float) -> tuple[str, str]:
    """Both with as few digits, four or more, as keep them within a hundredth of their distance."""
    for digits in range(4, 17):
        ends = f"{low:.{digits}g}", f"{high:.{digits}g}"
        if max(abs(float(ends[0]) - low), abs(float(ends[1]) - high)) <= (high - low) / 100:
            return ends
    return repr(low), repr(high)
