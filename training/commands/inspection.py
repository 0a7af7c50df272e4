"""The work of `jepack inspect`: what a data set holds, as figures, a table and a contact sheet."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jepack.decoding import elongation, preprocess
from jepack.errors import DataError
from jepack.names import marked, tell
from jepack.names import shown as shown_name
from jepack.sources import Source, find_images, passed_over
from jepack.terminal import counter, drawing
from training.commands.sheet import shown
from training.commands.survey import ImageRecord, survey
from training.data import measure_window, sentences

SHOWN = 12  # names printed per list; --json has all


def facts_of(
    data: str,
    *,
    tile: int,
    workers: int,
    channels: int | None,
    sheet: Path | None,
    window: str | None,
) -> dict[str, Any]:
    """Everything found, as JSON holds it; the contact sheet is written where it is asked for."""
    source, notes = Source.of(data), list[str]()
    files = find_images(source, parts=True, tile=tile, notes=notes)
    with counter("look") as show:
        records = survey(files, workers, show, channels)
    facts = report(source.text, records)
    facts["notes"] = notes
    facts["passed_over"] = passed_over(source.path) if source.kind == "folder" else {}
    ranges = [record.range for record in records if record.range is not None]
    facts["cautions"] = sentences(ranges, None, None)
    if told := elongation((one.height, one.width) for one in records if not one.problem):
        facts["cautions"].append(told)
    if sheet is not None:
        contact_sheet(sheet, [record for record in records if not record.problem], window)
        facts["contact_sheet"] = str(sheet)
    return facts


def report(data: str, records: list[ImageRecord]) -> dict[str, Any]:
    """Everything found, as JSON holds it."""
    good = [record for record in records if not record.problem]
    labels = Counter(record.file.label for record in records)
    names = sorted({key for record in records for key in record.file.columns})
    return {
        "data": data,
        "images": len(records),
        "readable": len(good),
        "labels": {str(k): v for k, v in sorted(labels.items(), key=str) if k is not None},
        "without_label": labels.get(None, 0),
        "splits": count(told for record in records if (told := record.file.columns.get("split"))),
        "columns": {n: len({record.file.columns.get(n) for record in records}) for n in names},
        "formats": count(record.format for record in good),
        "depths": count(record.depth for record in good),
        "channels": count(str(record.channels) for record in good),
        "height": spread([record.height for record in good]),
        "width": spread([record.width for record in good]),
        "values": {
            "low": min((record.low for record in good), default=None),
            "high": max((record.high for record in good), default=None),
            "mean": float(np.mean([record.mean for record in good])) if good else None,
            "std": float(np.mean([record.std for record in good])) if good else None,
        },
        "need_window": sum(record.needs_window for record in good),
        "bad": {record.file.name: record.problem for record in records if record.problem},
        "suspicious": {record.file.name: record.doubts for record in records if record.doubts},
        "same_bytes": matching(records, "same bytes"),
        "look_the_same": matching(records, "looks the same"),
    }


def count(values: Any) -> dict[str, int]:
    return dict(Counter(values).most_common())


def matching(records: list[ImageRecord], words: str) -> int:
    return sum(any(doubt.startswith(words) for doubt in record.doubts) for record in records)


def spread(values: list[int]) -> dict[str, float]:
    if not values:
        return {}
    low, middle, high = np.percentile(values, [0, 50, 100])
    return {"min": float(low), "median": float(middle), "max": float(high)}


def show_report(facts: dict[str, Any]) -> None:
    console = Console()
    title = f"{marked(facts['data'])}: {facts['images']:,} images"
    table = Table(title=title, box=None, show_header=False)
    labels = facts["labels"]
    told = ", ".join(f"{marked(name)} {n}" for name, n in list(labels.items())[:SHOWN]) or "none"
    table.add_row("readable", f"{facts['readable']:,}, bad {len(facts['bad'])}")
    table.add_row("labels", told + (f"; {facts['without_label']} without" if labels else ""))
    if facts["columns"]:
        told = ", ".join(f"{marked(name)} ({n} values)" for name, n in facts["columns"].items())
        table.add_row("columns", told)
    if facts["splits"]:
        table.add_row("split", ", ".join(f"{marked(k)} {n}" for k, n in facts["splits"].items()))
    for name in ("formats", "depths", "channels"):
        table.add_row(name, ", ".join(f"{key}: {n}" for key, n in facts[name].items()))
    for name in ("width", "height"):
        if facts[name]:
            table.add_row(
                name, "{min:.0f} to {max:.0f} px, median {median:.0f}".format(**facts[name])
            )
    values = facts["values"]
    if values["low"] is not None:
        table.add_row(
            "values", f"{values['low']:g} to {values['high']:g}, mean {values['mean']:.4g}, "
            f"standard deviation {values['std']:.4g} within an image",
        )  # fmt: skip
    if facts["passed_over"]:
        told = ", ".join(
            f"{n} {marked(ending)}" for ending, n in list(facts["passed_over"].items())[:SHOWN]
        )
        table.add_row("passed over", f"{told}: not read by their ending")
    if facts["need_window"]:
        table.add_row(
            "window", f"{facts['need_window']} hold values without a fixed meaning: training skips them "
            "unless told what to show, such as --window p1,p99",
        )  # fmt: skip
    for caution in facts["cautions"]:
        table.add_row("note", marked(caution))
    copies = f"{facts['same_bytes']} by bytes, {facts['look_the_same']} by looks"
    table.add_row("copies", copies)
    console.print(table)
    tell(console, facts["notes"])
    listing(console, "red", "bad: training skips them", facts["bad"])
    doubts = {name: "; ".join(told) for name, told in facts["suspicious"].items()}
    listing(console, "yellow", "worth a look", doubts)


def listing(console: Console, colour: str, title: str, entries: dict[str, str]) -> None:
    if not entries:
        return
    console.print(f"[{colour}]{len(entries)} {title}[/]")
    for name, reason in list(entries.items())[:SHOWN]:
        console.print(f"  {marked(name)}: {marked(reason)}", highlight=False, soft_wrap=True)
    if len(entries) > SHOWN:
        console.print(f"  and {len(entries) - SHOWN} more; --json lists all")


def contact_sheet(
    out: Path, records: list[ImageRecord], window: str | None, columns: int = 10
) -> None:
    """A page of up to 60 images, evenly spread over the data, each with its label."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not records:
        raise DataError("no image can be read, so there is no contact sheet")
    chosen = [
        records[i]
        for i in np.unique(np.linspace(0, len(records) - 1, min(60, len(records))).astype(int))
    ]
    # Depths without a fixed meaning are shown by their middle 98 %.
    needs = any(record.depth not in ("uint8", "bool", "uint16") for record in chosen)
    text = window or ("p1,p99" if needs else None)
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(1.3 * columns, 1.5 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid:
        axes.set_axis_off()
    for axes, record in zip(grid, chosen, strict=False):
        try:
            span = measure_window([record.file], text, record.channels)
            picture = shown(preprocess.decode(record.file.read(), record.channels, span))
        except DataError:  # --window does not fit it, or it has gone
            continue
        axes.imshow(picture, vmin=0, vmax=255)
        axes.set_title(
            shown_name(record.file.label or record.file.path.stem)[:16],
            fontsize=7,
            parse_math=False,
        )
    drawing.save(figure, out, dpi=100)
