"""The card's picture of the outputs' isotropy, drawn from the figures that isotropy.json keeps."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from jepack.bundle.card.measured import LABELS

PICTURE = "isotropy.png"


def draw(reports: dict[str, dict[str, Any]]) -> bytes:
    """A PNG: the covariance spectrum of each output, and its statistic beside that of N(0, I)."""
    from matplotlib.figure import Figure

    colours = {"embedding": "#20639b", "raw_projection": "#9aa5b1", "projection": "#d97706"}
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    for key, report in reports.items():
        values = [max(value, 1e-12) for value in report["spectrum"]]
        left.semilogy(
            range(1, len(values) + 1), values, color=colours[key], label=LABELS[key].strip("`")
        )
    left.axhline(1, color="#d1495b", ls="--", lw=1, label="N(0, I)")
    left.set_title("Covariance spectrum", fontsize=9)
    left.set_xlabel("direction", fontsize=8)
    left.legend(frameon=False, fontsize=8)
    names = [LABELS[key].strip("`").replace(" before", "\nbefore") for key in reports]
    figures = [report["statistic"] for report in reports.values()]
    bars = right.barh(names, figures, color=[colours[key] for key in reports])
    right.bar_label(bars, fmt=" %.1f", fontsize=8)
    floor = max(report["floor"] for report in reports.values())
    right.axvline(floor, color="#d1495b", ls="--", lw=1)
    right.set(xscale="log", xlim=(0.5, 4 * max(figures)))
    right.invert_yaxis()
    right.set_title(f"Statistic T; dashed: N(0, I), {floor:.2f}", fontsize=9)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=120, metadata={"Software": None})
    return stream.getvalue()
