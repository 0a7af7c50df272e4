"""The card's section on the probes that are kept in the bundle."""

from __future__ import annotations

from pathlib import Path

from jepack.bundle.card.markdown import Json, read_json, table, text_of
from jepack.bundle.probes import FOLDER

MOST_NAMED = 8  # classes
ACCURACY = ("accuracy", "accuracy_low", "accuracy_high")


def section(folder: Path) -> str:
    """What each can name and how good it was when it was kept; "" where none is."""
    found = sorted((folder / FOLDER).glob("*.json"))
    if not found:
        return ""
    columns = ["probe", "reads", "classes", "right in cross-validation", "labels", "wrong names"]
    rows = [row(path.stem, read_json(path)) for path in found]
    return (
        "## Kept probes\nHeads on its outputs, with the figures of when they were kept: "
        "`jepack serve BUNDLE --probe NAME` answers with them.\n\n" + table(columns, rows)
    )


def row(name: str, about: Json) -> list[str]:
    figures, classes = about.get("figures") or {}, about["classes"]
    more = f" and {len(classes) - MOST_NAMED} more" if len(classes) > MOST_NAMED else ""
    rate, right = about.get("error_rate"), "not told"
    if all(isinstance(figures.get(key), float | int) for key in ACCURACY):
        share, low, high = (figures[key] for key in ACCURACY)
        right = f"{share:.3f} ({low:.3f} to {high:.3f})"
    return [
        text_of(name),
        f"`{about['output']}`",
        text_of(", ".join(classes[:MOST_NAMED])) + more,
        right,
        text_of(figures.get("labels", "not told")),
        "the likeliest class is named" if rate is None else f"{rate:.0%} at most, else unsure",
    ]
