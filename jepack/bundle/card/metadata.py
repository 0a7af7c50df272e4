"""The card's front matter, which the Hub reads: licence, tags, `model-index`, `.eval_results`."""

from __future__ import annotations

import re
from typing import Any

from jepack.names import kept

# Licences the Hub knows by these names, https://huggingface.co/docs/hub/repositories-licenses
KNOWN_LICENSES = (
    "apache-2.0",
    "bsd-2-clause",
    "bsd-3-clause",
    "cc-by-2.0",
    "cc-by-3.0",
    "cc-by-4.0",
    "cc-by-nc-2.0",
    "cc-by-nc-3.0",
    "cc-by-nc-4.0",
    "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0",
    "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0",
    "cc-by-nc-sa-4.0",
    "cc-by-nd-4.0",
    "cc-by-sa-3.0",
    "cc-by-sa-4.0",
    "cc0-1.0",
    "gpl-3.0",
    "mit",
    "odbl",
    "odc-by",
    "pddl",
    "unlicense",
)
UNSTATED = {"", "not-stated", "other", "unknown"}


def front_matter(
    manifest: dict[str, Any], probes: list[dict[str, Any]], reports: dict[str, dict[str, Any]]
) -> str:
    """YAML without its dashes. Every result stands under the data it was measured on."""
    from huggingface_hub import EvalResult, ModelCardData

    source = manifest.get("provenance") or {}
    data = source.get("data")
    data = data if isinstance(data, dict) else {"folder": data}
    name = kept(str(data.get("folder") or "the training domain"))
    where: dict[str, Any] = {
        "dataset_type": slug(name) or "unnamed",
        "dataset_name": name,
        "dataset_split": "held-out",
        "dataset_args": {"sha256": data["digest"]} if data.get("digest") else None,
    }
    results = [
        EvalResult(
            task_type="image-feature-extraction",
            task_name="Isotropy",
            metric_type="sliced_epps_pulley",
            metric_name=f"Sliced Epps-Pulley statistic, {output.replace('_', ' ')}",
            metric_value=round(report["statistic"], 4),
            **where,
        )
        for output, report in reports.items()
    ]
    results += [
        EvalResult(
            task_type="image-classification",
            task_name="Linear probe on frozen features",
            metric_type="accuracy",
            metric_name=f"Linear probe, {entry.get('output', 'embedding')}",
            metric_value=round(entry["linear"], 4),
            **where,
        )
        for entry in own(probes)
    ]
    method = (source.get("recipe") or {}).get("method")
    card = ModelCardData(
        library_name="timm",
        pipeline_tag="image-feature-extraction",
        tags=["jepack", *([method] if method else []), "self-supervised-learning"],
        model_name=str(manifest["name"]) if results else None,
        eval_results=results or None,
        **license_fields(str(source.get("license") or "")),
    )
    return card.to_yaml()


def license_fields(text: str) -> dict[str, Any]:
    """The Hub's keys for a licence in words: `CC BY-NC-SA 4.0: for research` -> cc-by-nc-sa-4.0."""
    name = slug(text.split(":")[0])
    if name in UNSTATED:
        return {"license": "unknown"}
    for known in KNOWN_LICENSES:
        if name in (slug(known), f"{slug(known)}-license"):
            return {"license": known}
    return {"license": "other", "license_name": name}


def own(probes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """This encoder's rows: baselines are named after where they come from, timm: or random:."""
    return [entry for entry in probes if not str(entry["encoder"]).startswith(("timm:", "random:"))]


def eval_results_yaml(probes: list[dict[str, Any]]) -> str:
    """`.eval_results/probes.yaml`: the Hub shows these beside the data set's other results.

    Only for data that is on the Hub: an entry names it by `hub_dataset` ("user/name") and, where the
    data set has several, `hub_task`. Empty when none does.
    """
    on_hub = [entry for entry in own(probes) if entry.get("hub_dataset")]
    if not on_hub:
        return ""
    from huggingface_hub import EvalResultEntry
    from huggingface_hub._eval_results import eval_result_entries_to_yaml
    from huggingface_hub.utils import yaml_dump

    entries = [
        EvalResultEntry(
            dataset_id=entry["hub_dataset"],
            task_id=entry.get("hub_task", "default"),
            value=round(entry["linear"], 4),
            notes=f"linear probe on frozen features, {entry.get('output', 'embedding')}",
        )
        for entry in on_hub
    ]
    return str(yaml_dump(eval_result_entries_to_yaml(entries)))


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower())[:60].strip("-.")
