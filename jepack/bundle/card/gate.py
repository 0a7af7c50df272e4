"""What the gate said, in a card: of the encoder and of each export."""

from __future__ import annotations

from jepack.bundle.card.markdown import Json, table, text_of
from jepack.bundle.contents import OUTPUTS


def gate(manifest: Json) -> str:
    verdict, promises = manifest.get("gate"), manifest.get("promises") or {}
    if not verdict:
        return "## Gate\nNot judged yet: `jepack export BUNDLE` judges the encoder and each export."
    if verdict.get("forced_files") and set(verdict["refusals"]) <= reasons_of(
        verdict["forced_files"]
    ):
        names = ", ".join(f"`{text_of(file)}`" for file in verdict["forced_files"])
        text = (
            f"**The gate refused {names} and was overridden**; it passed the encoder. Its reasons:"
        )
    elif verdict.get("forced"):
        text = "**The gate refused this encoder and was overridden.** Its reasons:"
    else:
        text = "Passed: no collapse, and each export keeps PyTorch's distribution and neighbours."
    reasons = [f"- {text_of(reason)}" for reason in verdict.get("refusals", [])]
    reasons += [
        f"- Threshold changed by hand: {name} is {change['value']:g} (usually {change['default']:g})"
        for name, change in (verdict.get("changed_thresholds") or {}).items()
    ]
    reasons += [f"- Warning: {text_of(reason)}" for reason in verdict.get("warnings", [])]
    paragraphs = [f"## Gate\n{text}", "\n".join(reasons)]
    if promises:
        kept = [
            f"- {name.replace('_', ' ')}: {'kept' if value else 'switched off'}"
            for name, value in promises.items()
        ]
        paragraphs.append(
            "Promises that lean on the projection being near N(0, I):\n\n" + "\n".join(kept)
        )
    return "\n\n".join(one for one in paragraphs if one)


def reasons_of(files: dict[str, list[str]]) -> set[str]:
    return {reason for reasons in files.values() for reason in reasons}


def exports(measured: Json) -> str:
    made = measured.get("exports") or {}
    left_out = measured.get("left_out") or {}
    if not made and not left_out:
        return ""
    batches = sorted(
        {n for facts in made.values() for n in facts.get("milliseconds") or {}}, key=int
    )
    rows = []
    for file, facts in sorted(made.items()):
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
        for file, facts in sorted(made.items())
        if facts.get("refusals")
    ]
    lines += [f"- `{file}` is not faster enough to use" for file in slow(made)]
    lines += ["- Made with " + ", ".join(f"{key} {value}" for key, value in machine.items())]
    paragraphs = [
        f"## Exports\n{text}",
        table(columns, rows),
        "\n".join(lines if machine else lines[:-1]),
    ]
    return "\n\n".join(one for one in paragraphs if one)


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


def slow(made: Json) -> list[str]:
    return [file for file, facts in sorted(made.items()) if facts.get("recommended") is False]
