"""What the encoder is, how it is loaded and what it is for, in a card."""

from __future__ import annotations

import json
import math
from pathlib import Path

from jepack.bundle.card.markdown import Json, read_json, table, text_of
from jepack.bundle.card.measured import isotropy_of
from jepack.bundle.card.snippets import snippets
from jepack.bundle.contents import OUTPUTS

WHOLE = {  # by crop mode; the usual one goes without saying
    "border": ", whole images on their mean colour",
    "squash": ", whole images stretched to it",
}


def summary(folder: Path, manifest: Json) -> str:
    config = read_json(folder / "config.json") or {}
    preprocessing, dims = manifest["preprocessing"], manifest["dimensions"]
    channels = {1: "grey", 3: "RGB"}.get(
        preprocessing["channels"], f"{preprocessing['channels']} channels"
    )
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
        [
            "input",
            f"{channels}, {preprocessing['size']} x {preprocessing['size']} px, uint8"
            f"{WHOLE.get(preprocessing.get('crop_mode', ''), '')}; normalised inside",
        ],
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


def loading(manifest: Json, present: set[str], repo: str | None) -> str:
    place = f"From `{repo}` on the Hub" if repo else "From the folder `./bundle`"
    sections = [f"## Loading\n{place}; `image.png` stands for an image of yours."]
    ways = snippets(manifest, present, repo)
    if any(item.library == "timm" for item in ways):
        sections.append(
            "Pictures of 8 bits are opened as this encoder saw its own: upright, on white paper. Deeper "
            "images and other formats are opened by `jepack.decoding`, as in the lines for onnxruntime."
        )
    for item in ways:
        sections.append(f"### {item.library}\n```python\n{item.code}\n```")
    return "\n\n".join(sections)


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
    if report := reports.get("embedding"):
        lines.append(
            f"- The embedding's variance lies in about {report['effective_rank']:.0f} of its "
            f"{report['dimensions']} dimensions."
        )
    if (report := reports.get("projection")) and report["z_score"] > 3:
        lines.append(
            "- The calibrated projection is measurably not N(0, I) on held-out images "
            f"(z = {report['z_score']:.0f})."
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
