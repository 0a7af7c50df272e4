"""What was measured of the encoder, in a card: probes and isotropy."""

from __future__ import annotations

from typing import Any

from jepack.bundle.card.markdown import Json, table, text_of

LABELS = {
    "embedding": "`embedding`",
    "raw_projection": "projection before calibration",
    "projection": "`projection`",
}


def probes(entries: list[Json]) -> str:
    if not entries:
        return "## Probes\nNot measured. `jepack probe BUNDLE --data LABELLED` does, baselines too."
    columns = [
        "encoder",
        "output",
        "linear",
        "95 % interval",
        "balanced",
        "kNN",
        "majority",
        "tested on",
    ]
    rows = [
        [
            text_of(entry["encoder"]),
            text_of(entry.get("output", "embedding")),
            f"{entry['linear']:.3f}",
            f"{entry['linear_low']:.3f} to {entry['linear_high']:.3f}",
            f"{entry['balanced']:.3f}",
            f"{entry['knn']:.3f}",
            f"{entry['majority']:.3f}",
            f"{entry['test_images']:,} images"
            + (f", {text_of(entry['tested_on'])}" if entry.get("tested_on") else ""),
        ]
        for entry in entries
    ]
    text = "Accuracies of simple models on frozen features, by one protocol for every row."
    if seen := [entry["seen_in_training"] for entry in entries if entry.get("seen_in_training")]:
        text += f" Up to {max(seen):.0%} of the test images were seen in training, without labels."
    return f"## Probes\n{text}\n\n{table(columns, rows)}"


def isotropy_of(value: Any) -> tuple[dict[str, Json], str]:
    """(report of each output, what it was measured on): the export's figures, else the training's."""
    if not isinstance(value, dict):
        return {}, ""
    images = value.get("images")
    reports = value.get("outputs") or value
    source = f"{images} held-out images" if isinstance(images, int) else ""
    if isinstance(images, dict):
        source = str(images.get("source", ""))
    return {key: reports[key] for key in LABELS if isinstance(reports.get(key), dict)}, source


def isotropy(measured: Json, picture: str | None) -> str:
    reports, source = isotropy_of(measured)
    if not reports:
        return "## Isotropy\nNot measured. `jepack export BUNDLE --data IMAGES` does."
    columns = ["output", "T", "at N(0, I)", "z", "effective rank", "RankMe", "condition", "dead"]
    rows = [
        [
            LABELS[key],
            f"{report['statistic']:.2f}",
            f"{report['floor']:.2f}",
            f"{report['z_score']:.1f}",
            f"{report['effective_rank']:.1f} of {report['dimensions']}",
            f"{report['rankme']:.1f}",
            "infinite"
            if report["condition_number"] is None
            else f"{report['condition_number']:.1e}",
            str(report["dead_dimensions"]),
        ]
        for key, report in reports.items()
    ]
    on = f"Measured on {text_of(source)}. " if source else ""
    paragraphs = [
        f"## Isotropy\n{on}T is the sliced Epps-Pulley statistic, the distance from an isotropic "
        "Gaussian N(0, I); z counts it in standard deviations; dead dimensions do not vary.",
        table([*columns, "mean norm", "variance"], [
            [*row, f"{report['mean_norm']:.2g}", f"{report['variance']:.2g}"]
            for row, report in zip(rows, reports.values(), strict=True)
        ]),
    ]  # fmt: skip
    if picture:
        paragraphs.append(f"![Covariance spectra and statistics of the outputs]({picture})")
    return "\n\n".join(paragraphs)
