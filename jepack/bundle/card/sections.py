"""The sections of a model card, Markdown each; an empty string leaves a section out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jepack.bundle.card.snippets import snippets
from jepack.bundle.folder import OUTPUTS
from jepack.names import valid

Json = dict[str, Any]

LABELS = {
    "embedding": "`embedding`",
    "raw_projection": "projection before calibration",
    "projection": "`projection`",
}
SETTINGS = (
    "preset", "encoder", "epochs", "images_per_step", "learning_rate", "weight_decay", "sigreg_weight",
    "size",
)  # fmt: skip


def summary(folder: Path, manifest: Json) -> str:
    config = read_json(folder / "config.json") or {}
    look, dims = manifest["preprocessing"], manifest["dimensions"]
    channels = {1: "grey", 3: "RGB"}.get(look["channels"], f"{look['channels']} channels")
    words = manifest.get("card") or {}
    story = words.get("story") or "An image encoder for one domain, trained without labels."
    prints = manifest.get("fingerprints", {})
    head = f"{words['projection']}, " if words.get("projection") else ""
    names = {
        "embedding": "pooled backbone features",
        "projection": f"{head}calibrated towards N(0, I)",
    }
    outputs = [
        [
            f"`{output}`",
            f"{dims[output]} dimensions, {names[output]}"
            + (f"; fingerprint `{prints[output]}`" if output in prints else ""),
        ]
        for output in OUTPUTS
    ]
    rows = [
        ["encoder", f"`{config.get('architecture')}`, {parameters(folder):.1f} million weights"],
        ["method", text_of((config.get("jepack") or {}).get("method") or "not stated")],
        ["input", f"{channels}, {look['size']} x {look['size']} px, uint8; normalised inside"],
        *outputs,
        ["for retrieval", f"`{manifest.get('default_output', 'embedding')}`"],
    ]
    return f"# {text_of(manifest['name'])}\n\n{story}\n\n{table(['', ''], rows)}"


def parameters(folder: Path) -> float:
    """Million weights of the backbone, from the header of its safetensors file."""
    with (folder / "model.safetensors").open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    tensors = (item for key, item in header.items() if key != "__metadata__")
    return sum(math.prod(item["shape"]) for item in tensors) / 1e6


def data(manifest: Json) -> str:
    source = manifest.get("provenance") or {}
    found = source.get("data") or {}
    found = found if isinstance(found, dict) else {"folder": found}
    held_out = found.get("held_out_images", len(found.get("held_out") or []))
    license = source.get("license") or "not stated"
    lines = [
        f"- Name: {text_of(found['folder'])}" if found.get("folder") else "",
        f"- Images: {found['images']:,}"
        if found.get("images")
        else "- Images: number not recorded",
        f"- Kept out of training: at least {held_out:,}" if held_out else "",
        f"- SHA-256 of the images: `{found['digest']}`" if found.get("digest") else "",
        f"- Licence of the data, which binds these weights too: **{text_of(license)}**",
    ]
    return "## Training data\n" + "\n".join(line for line in lines if line)


def recipe(manifest: Json, present: set[str]) -> str:
    source = manifest.get("provenance") or {}
    settings = source.get("recipe") or {}
    parts = []
    if settings:
        rows = [
            [key.replace("_", " "), text_of(settings[key])] for key in SETTINGS if key in settings
        ]
        rows += [["steps", f"{source['steps']:,}"]] if isinstance(source.get("steps"), int) else []
        parts.append(table(["setting", "value"], rows))
    if changes := [line for entry in source.get("history") or [] for line in changed_lines(entry)]:
        parts.append(
            "Changed while it ran (the values above are the last):\n\n" + "\n".join(changes)
        )
    if "curves.png" in present:
        parts.append("![Loss, kNN accuracy and effective rank during training](curves.png)")
    if settings:
        listing = json.dumps(settings, indent=2, sort_keys=True)
        parts.append(
            f"<details><summary>All settings</summary>\n\n```json\n{listing}\n```\n</details>"
        )
    return "\n\n".join(["## Training", *parts]) if parts else ""


def changed_lines(entry: Json) -> list[str]:
    """One point for each setting that changed after a step."""
    return [
        f"- after step {entry['step']:,}: {name.replace('_', ' ')} {text_of(was)} → {text_of(now)}"
        for name, (was, now) in entry["changed"].items()
    ]


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
    found = value.get("outputs") or value
    source = f"{images} held-out images" if isinstance(images, int) else ""
    if isinstance(images, dict):
        source = str(images.get("source", ""))
    return {key: found[key] for key in LABELS if isinstance(found.get(key), dict)}, source


def isotropy(measured: Json, picture: str | None) -> str:
    reports, source = isotropy_of(measured)
    if not reports:
        return "## Isotropy\nNot measured. `jepack export BUNDLE --data IMAGES` does."
    columns = ["output", "T", "at N(0, I)", "z", "effective rank", "RankMe", "condition", "dead"]
    rows = [
        [
            LABELS[key],
            f"{found['statistic']:.2f}",
            f"{found['floor']:.2f}",
            f"{found['z_score']:.1f}",
            f"{found['effective_rank']:.1f} of {found['dimensions']}",
            f"{found['rankme']:.1f}",
            "infinite" if found["condition_number"] is None else f"{found['condition_number']:.1e}",
            str(found["dead_dimensions"]),
        ]
        for key, found in reports.items()
    ]
    on = f"Measured on {text_of(source)}. " if source else ""
    parts = [
        f"## Isotropy\n{on}T is the sliced Epps-Pulley statistic, the distance from an isotropic "
        "Gaussian N(0, I); z counts it in standard deviations; dead dimensions do not vary.",
        table([*columns, "mean norm", "variance"], [
            [*row, f"{found['mean_norm']:.2g}", f"{found['variance']:.2g}"]
            for row, found in zip(rows, reports.values(), strict=True)
        ]),
    ]  # fmt: skip
    if picture:
        parts.append(f"![Covariance spectra and statistics of the outputs]({picture})")
    return "\n\n".join(parts)


def gate(manifest: Json) -> str:
    found, promises = manifest.get("gate"), manifest.get("promises") or {}
    if not found:
        return "## Gate\nNot judged yet: `jepack export BUNDLE` judges the encoder and each export."
    if found.get("forced_files") and set(found["refusals"]) <= reasons_of(found["forced_files"]):
        names = ", ".join(f"`{text_of(file)}`" for file in found["forced_files"])
        text = (
            f"**The gate refused {names} and was overridden**; it passed the encoder. Its reasons:"
        )
    elif found.get("forced"):
        text = "**The gate refused this encoder and was overridden.** Its reasons:"
    else:
        text = "Passed: no collapse, and each export keeps PyTorch's distribution and neighbours."
    reasons = [f"- {text_of(reason)}" for reason in found.get("refusals", [])]
    reasons += [
        f"- Threshold changed by hand: {name} is {change['value']:g} (usually {change['default']:g})"
        for name, change in (found.get("changed_thresholds") or {}).items()
    ]
    reasons += [f"- Warning: {text_of(reason)}" for reason in found.get("warnings", [])]
    parts = [f"## Gate\n{text}", "\n".join(reasons)]
    if promises:
        kept = [
            f"- {name.replace('_', ' ')}: {'kept' if value else 'switched off'}"
            for name, value in promises.items()
        ]
        parts.append(
            "Promises that lean on the projection being near N(0, I):\n\n" + "\n".join(kept)
        )
    return "\n\n".join(part for part in parts if part)


def reasons_of(files: dict[str, list[str]]) -> set[str]:
    return {reason for reasons in files.values() for reason in reasons}


def exports(measured: Json) -> str:
    found = measured.get("exports") or {}
    left_out = measured.get("left_out") or {}
    if not found and not left_out:
        return ""
    batches = sorted(
        {n for facts in found.values() for n in facts.get("milliseconds") or {}}, key=int
    )
    rows = []
    for file, facts in sorted(found.items()):
        spent, speed = facts.get("milliseconds") or {}, facts.get("speed") or {}
        timed = [
            f"{spent[n]:.1f} ({speed[n]:.1f}x)" if n in spent and n in speed else ""
            for n in batches
        ]
        rows.append([f"`{file}`", f"{facts['bytes'] / 1e6:.1f}", *parity(facts), *timed])
    columns = ["file", "MB", "cosine", "largest difference", "recall@10"]
    columns += [f"ms, batch {n}" for n in batches]
    text = "Each against PyTorch on the same images; of the two outputs the worse is shown."
    if batches:
        text += " In brackets: how many times as fast as PyTorch eager on the same machine."
    machine = measured.get("machine") or measured.get("versions") or {}
    lines = [f"- Left out by the gate: `{file}`" for file in sorted(left_out)]
    lines += [
        f"- **Refused by the gate and kept by `--force`**: `{file}`"
        for file, facts in sorted(found.items())
        if facts.get("refusals")
    ]
    lines += [f"- `{file}` is not faster enough to use" for file in slow(found)]
    lines += ["- Made with " + ", ".join(f"{key} {value}" for key, value in machine.items())]
    parts = [
        f"## Exports\n{text}",
        table(columns, rows),
        "\n".join(lines if machine else lines[:-1]),
    ]
    return "\n\n".join(part for part in parts if part)


def parity(facts: Json) -> list[str]:
    """Smallest cosine, largest difference and smallest recall of an export's outputs."""
    outputs = [facts[name] for name in OUTPUTS if isinstance(facts.get(name), dict)]
    if not outputs or any("broken" in entry for entry in outputs):
        return ["refused" if outputs else "", "", ""]
    return [
        f"{min(entry['cosine'] for entry in outputs):.5f}",
        f"{max(entry['max_abs'] for entry in outputs):.0e}",
        f"{min(entry['recall_at_10'] for entry in outputs):.3f}",
    ]


def slow(found: Json) -> list[str]:
    return [file for file, facts in sorted(found.items()) if facts.get("recommended") is False]


def loading(manifest: Json, present: set[str], repo: str | None) -> str:
    place = f"From `{repo}` on the Hub" if repo else "From the folder `./bundle`"
    parts = [f"## Loading\n{place}; `image.png` stands for an image of yours."]
    found = snippets(manifest, present, repo)
    if any(item.library == "timm" for item in found):
        parts.append(
            "Pictures of 8 bits are opened as this encoder saw its own: upright, on white paper. Deeper "
            "images and other formats are opened by `jepack.decoding`, as in the lines for onnxruntime."
        )
    for item in found:
        parts.append(f"### {item.library}\n```python\n{item.code}\n```")
    return "\n\n".join(parts)


def use(manifest: Json) -> str:
    lines = [
        "- Searching and grouping images of the domain it was trained on, by cosine.",
        "- Small classifiers on frozen features, where few labels are at hand.",
    ]
    if any((manifest.get("promises") or {}).values()):
        lines.append("- Alarms on drift and atypical images, as far as the gate promises them.")
    return "## Intended use\n" + "\n".join(lines)


def limits(manifest: Json, measured: Json, entries: list[Json]) -> str:
    reports, _ = isotropy_of(measured)
    images = measured.get("images")
    told = (manifest.get("card") or {}).get("limits")
    lines = [f"- {told or 'Trained on one data set: nothing is known of it outside that domain.'}"]
    if isinstance(images, dict) and not images.get("held_out"):
        lines.append("- Isotropy and exports were judged on the few golden images only.")
    if found := reports.get("embedding"):
        lines.append(
            f"- The embedding's variance lies in about {found['effective_rank']:.0f} of its "
            f"{found['dimensions']} dimensions."
        )
    if (found := reports.get("projection")) and found["z_score"] > 3:
        lines.append(
            "- The calibrated projection is measurably not N(0, I) on held-out images "
            f"(z = {found['z_score']:.0f})."
        )
    if not entries:
        lines.append("- How well it separates classes was not measured.")
    if (manifest.get("gate") or {}).get("forced"):
        lines.append("- Its gate was overridden, see above.")
    lines.append(
        "- Not for identifying people. Decisions on health or safety need a check of their own, on the "
        "data they concern."
    )
    return "## Limits\n" + "\n".join(lines)


def provenance(manifest: Json) -> str:
    source = manifest.get("provenance") or {}
    versions = ", ".join(
        f"{name} {value}" for name, value in (source.get("versions") or {}).items()
    )
    lines = [
        f"- Code: commit `{source['commit']}`" if source.get("commit") else "",
        f"- Versions: {versions}" if versions else "",
        f"- Changed after it was pulled as `{text_of(source['edited_after_pull'])}`"
        if source.get("edited_after_pull")
        else "",
        f"- Made: {manifest['created']}" if manifest.get("created") else "",
        "- `manifest.json` holds the SHA-256 of every file; `jepack verify BUNDLE` checks them.",
    ]
    return "## Provenance\n" + "\n".join(line for line in lines if line)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def text_of(value: Any) -> str:
    """Someone else's words, safe inside Markdown: one line, no HTML, no table bars, no links."""
    return re.sub(r"([\\`*_<>|\[\]])", r"\\\1", " ".join(valid(str(value)).split()))


def read_json(path: Path) -> Any:
    """The file's content, None when there is no such file."""
    return json.loads(path.read_text()) if path.is_file() else None
