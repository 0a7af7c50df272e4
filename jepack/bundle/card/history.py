"""How the encoder came to be, in a card: data, settings, code. An empty string leaves a section out."""

from __future__ import annotations

import json
from typing import Any

from jepack.bundle.card.markdown import Json, table, text_of

SETTINGS = (
    "preset", "encoder", "epochs", "images_per_step", "learning_rate", "weight_decay", "sigreg_weight",
    "size",
)  # fmt: skip


def data(manifest: Json) -> str:
    source = manifest.get("provenance") or {}
    images = source.get("data") or {}
    images = images if isinstance(images, dict) else {"folder": images}
    held_out = images.get("held_out_images", len(images.get("held_out") or []))
    license = source.get("license") or "not stated"
    lines = [
        f"- Name: {text_of(images['folder'])}" if images.get("folder") else "",
        f"- Images: {images['images']:,}"
        if images.get("images")
        else "- Images: number not recorded",
        f"- Kept out of training: at least {held_out:,}" if held_out else "",
        f"- SHA-256 of the images: `{images['digest']}`" if images.get("digest") else "",
        f"- Licence of the data, which binds these weights too: **{text_of(license)}**",
    ]
    return "## Training data\n" + "\n".join(line for line in lines if line)


def recipe(manifest: Json, present: set[str]) -> str:
    source = manifest.get("provenance") or {}
    settings = source.get("recipe") or {}
    paragraphs = start_told(source.get("start"))
    if settings:
        rows = [
            [key.replace("_", " "), text_of(settings[key])] for key in SETTINGS if key in settings
        ]
        rows += [["steps", f"{source['steps']:,}"]] if isinstance(source.get("steps"), int) else []
        paragraphs.append(table(["setting", "value"], rows))
    if changes := [line for entry in source.get("history") or [] for line in changed_lines(entry)]:
        paragraphs.append(
            "Changed while it ran (the values above are the last):\n\n" + "\n".join(changes)
        )
    if "curves.png" in present:
        paragraphs.append("![Loss, kNN accuracy and effective rank during training](curves.png)")
    if settings:
        listing = json.dumps(settings, indent=2, sort_keys=True)
        paragraphs.append(
            f"<details><summary>All settings</summary>\n\n```json\n{listing}\n```\n</details>"
        )
    return "\n\n".join(["## Training", *paragraphs]) if paragraphs else ""


def start_told(start: Any) -> list[str]:
    """Paragraphs on the weights that the run began from, where they were not random."""
    if not isinstance(start, dict):
        return []
    name, license = text_of(start.get("name")), text_of(start.get("license") or "not stated")
    told = f"It started from {name} ({text_of(start.get('origin'))})."
    paragraphs = [f"{told} Licence of those weights: **{license}**."]
    if isinstance(compared := start.get("compared"), dict):
        paragraphs.append(
            f"Beside its start, on the same images, it {text_of(compared.get('told'))}."
        )
    if start.get("kept"):
        paragraphs.append(
            "**This bundle holds the weights of the start**: the run that is told here ended below them."
        )
    return paragraphs


def changed_lines(entry: Json) -> list[str]:
    """One point for each setting that changed after a step."""
    return [
        f"- after step {entry['step']:,}: {name.replace('_', ' ')} {text_of(was)} → {text_of(now)}"
        for name, (was, now) in entry["changed"].items()
    ]


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
