"""The p-values of unseen images of several bundles, from the results of benchmarks/drift.py.

python -m benchmarks.drift_picture solar earth digits_lejepa
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
PICTURE = Path(__file__).parents[1] / "docs" / "img" / "atypicality.png"
FOUND, LIMIT = "#20639b", "#d1495b"


def main() -> None:
    names = sys.argv[1:]
    figure = Figure(figsize=(3.6 * len(names), 2.8), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        found = json.loads((RESULTS / f"drift_{name}.json").read_text())
        counts = found["disjoint"]["p_values"]
        total, bins = sum(counts), len(counts)
        edges = [number / bins for number in range(bins + 1)]
        axes.stairs([count / total for count in counts], edges, fill=True, color=FOUND)
        axes.axhline(1 / bins, color=LIMIT, linestyle="--", linewidth=1)
        apart, limit = found["disjoint"]["kolmogorov"][0], found["disjoint"]["kolmogorov_5_percent"]
        axes.set_title(f"{name.replace('_', ', ')}: {total} unseen images", fontsize=9)
        axes.set_xlabel(f"p-value; Kolmogorov {apart:.3f} (5 %: {limit:.3f})", fontsize=8)
        axes.set_ylim(0, 0.16)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    figure.savefig(PICTURE, dpi=110)
    print(f"wrote {PICTURE}")


if __name__ == "__main__":
    main()
