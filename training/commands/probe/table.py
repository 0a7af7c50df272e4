"""What `jepack probe` found: on the screen, and in the bundle's card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from jepack import bundle as bundles
from jepack.bundle import card
from jepack.files import write_json
from jepack.names import marked


def show(rows: Sequence[dict[str, Any]]) -> None:
    """One column of accuracies per encoder."""
    first = rows[0]
    table = Table(
        title=f"{marked(first['data'])}: {first['test_images']} test images, "
        f"{marked(first['tested_on'])}",
        title_justify="left",
    )
    table.box = None
    table.add_column("probe")
    for row in rows:
        table.add_column(f"{marked(row['encoder'])}\n{row['output']}")
    table.add_column("")

    def line(name: str, key: str, note: str) -> None:
        table.add_row(name, *(f"{row[key]:.3f}" for row in rows), note)

    several = f"; mean of {first['seeds']} splits" if first["seeds"] > 1 else ""
    line("linear", "linear", f"logistic regression{several}")
    ends = (f"{row['linear_low']:.3f}-{row['linear_high']:.3f}" for row in rows)
    table.add_row("", *ends, "95 % interval over test images")
    if first["seeds"] > 1:
        line("", "linear_std", "standard deviation over splits")
    line("linear, balanced", "balanced", "mean recall over classes")
    line("kNN", "knn", "k = 20, cosine")
    for shots in first["few_shot"]:
        values = (f"{row['few_shot'][shots]:.3f}" for row in rows)
        table.add_row(f"{shots}-shot", *values, "nearest class mean, 20 draws")
    line("majority", "majority", "always the commonest class")
    if "control" in first:
        told = first["control"]
        values = (f"{row['control']['linear']:.3f}" for row in rows)
        name = marked(told["column"])
        note = f"majority {told['majority']:.3f}; far above it, the features tell {name}"
        table.add_row(f"control: {name}", *values, note)
    if first.get("seen_in_training"):
        note = "of the test images the encoder was trained on, without labels"
        table.add_row("seen", f"{first['seen_in_training']:.2f}", *[""] * (len(rows) - 1), note)
    if first["copies_across"]:
        line("copies", "copies_across", "of the test images look like a training image")
    Console().print(table)


def keep(bundle: bundles.Bundle, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows into the bundle's probes.json, over those of the same encoder, output and data,
    and make its card anew."""

    def of(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row.get(key) for key in ("encoder", "output", "data", "size"))

    new = {of(row) for row in rows}
    with bundles.editing(bundle) as stage:
        path = stage / card.PROBES
        had = json.loads(path.read_text()) if path.is_file() else []
        path.unlink(missing_ok=True)
        write_json(path, [*rows, *(row for row in had if of(row) not in new)])
        card.refresh(stage, bundle.manifest)
