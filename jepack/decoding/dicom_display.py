"""How a DICOM file says its values are shown: palettes, windows, curves (PS3.3 C.7.6.3.1.5, C.11.2)."""

from __future__ import annotations

from typing import Any

import numpy as np

from jepack.decoding.intensity import Raw
from jepack.decoding.limits import need


def palette(tags: Any, values: Any) -> Raw:
    """[H, W, 3] of indices (C.7.6.3.1.5); tables of 8 bits may lie in words of 16."""
    count, start, bits = (int(number) for number in tags.RedPaletteColorLookupTableDescriptor)
    if "RedPaletteColorLookupTableData" in tags:  # pydicom's own takes 256 entries of 8 bits
        places = np.clip(values.astype(np.int64) - start, 0, (count or 65536) - 1)
        planes = []
        for name in ("Red", "Green", "Blue"):
            data = tags[f"{name}PaletteColorLookupTableData"].value
            wide = len(data) >= 2 * (count or 65536)
            planes.append(np.frombuffer(data, "<u2" if wide else np.uint8)[places])
        colours = np.stack(planes, axis=-1)
    else:
        pixels = need("pydicom.pixels", "dicom")
        colours = np.ascontiguousarray(pixels.apply_color_lut(values, tags)[..., :3])
    return Raw(colours.astype(np.uint8) if bits == 8 else colours)


def first(value: Any) -> Any:
    return value[0] if isinstance(value, (list, tuple)) or hasattr(value, "append") else value


def window_of(tags: Any, values: Any) -> tuple[float, float]:
    """The file's first window; without one, the range of its values."""
    centre, width = first(tags.get("WindowCenter")), first(tags.get("WindowWidth"))
    if centre is None or width is None:
        sound = values[np.isfinite(values)]
        low, high = (float(sound.min()), float(sound.max())) if sound.size else (0.0, 1.0)
        return (low, high) if high > low else (low, low + 1)
    centre, width = float(centre), float(width)
    if tags.get("VOILUTFunction") == "LINEAR_EXACT":  # C.11.2.1.3.2
        half = max(width, 1e-6) / 2
        return (centre - half, centre + half)
    half = max(width - 1, 1) / 2  # C.11.2.1.2.1
    return (centre - 0.5 - half, centre - 0.5 + half)


def pictured(tags: Any, values: Any) -> Any:
    """[H, W, 1] uint8 where the file shows its values by a curve, which no window tells; else None."""
    centre, width = first(tags.get("WindowCenter")), first(tags.get("WindowWidth"))
    if centre is not None and width is not None:
        if tags.get("VOILUTFunction") != "SIGMOID":
            return None
        scaled = -4 * (values.astype(np.float64) - float(centre)) / max(float(width), 1e-6)
        shown = 255 / (1 + np.exp(np.clip(scaled, -700, 700)))  # C.11.2.1.3.1
    elif tags.get("VOILUTSequence"):
        shown = looked_up(tags.VOILUTSequence[0], values)
    else:
        return None
    return np.rint(shown).astype(np.uint8)[..., None]


def looked_up(item: Any, values: Any) -> Any:
    """Values through a table of the file (C.11.2.1.1), 0..255. pydicom's own takes 256 of 8-bit entries."""
    _, start, bits = (int(number) for number in item.LUTDescriptor)
    entries = item.LUTData
    if isinstance(entries, bytes):
        entries = np.frombuffer(entries, "<u2")
    table = np.asarray(entries, dtype=np.float64)
    places = np.rint(np.nan_to_num(values)).astype(np.int64) - start
    return 255 * np.clip(table[np.clip(places, 0, len(table) - 1)] / (2**bits - 1), 0, 1)
