"""The card's section on what search should use."""

from __future__ import annotations

from typing import Any

from jepack.bundle.contents import OUTPUTS

COLUMNS = ("recall_at_1", "recall_at_10", "precision_at_10", "mean_average_precision")


def section(manifest: dict[str, Any]) -> str:
    """What was measured when the bundle was written, or that nothing was."""
    chosen = manifest.get("default_output", OUTPUTS[0])
    retrieval = manifest.get("retrieval") or {}
    if retrieval.get("basis") != "measured":
        return (
            f"## Retrieval\nNot measured on this data (no labels, or too few). `{chosen}` is what did "
            "better on the project's benchmark."
        )
    apart = ", images of a query's own group left out" if retrieval.get("groups_apart") else ""
    lines = [
        "| output | recall@1 | recall@10 | precision@10 | mean average precision |",
        "| --- | --- | --- | --- | --- |",
    ]
    for output in OUTPUTS:
        scores = retrieval["outputs"][output]
        lines.append(f"| `{output}` | " + " | ".join(f"{scores[c]:.3f}" for c in COLUMNS) + " |")
    low, high = retrieval["gain_over_embedding"]["projection"]
    return (
        f"## Retrieval\n{retrieval['queries']:,} held-out images ask among each other for images of their "
        f"class ({retrieval['classes']} classes{apart}; a random order has a mean average precision of about "
        f"{retrieval['chance']:.3f}).\n\n"
        + "\n".join(lines)
        + f"\n\n`{chosen}` is the default: the "
        "projection is taken only where its mean average precision is higher with 95 % confidence "
        f"(here it differs by {low:+.3f} to {high:+.3f})."
    )
