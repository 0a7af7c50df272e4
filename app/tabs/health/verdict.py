"""Whether an encoder is sound, in sentences: from its bundle, and from what was measured on the index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app.desk import Desk
from app.tabs.health.measuring import Measured
from jepack.bundle import Bundle, standing
from jepack.measures import breadth

KINDS = ("bad", "limit", "good", "unknown")  # the worst first
HEADLINES = {
    "bad": "Do not rely on this encoder",
    "limit": "Of use, within limits",
    "good": "Healthy in all that was measured",
    "unknown": "Not known yet",
}
OF_BREADTH = {"collapsed": "bad", "few": "limit", "fair": "good"}
WEAK = 0.5  # of the mean over all images: a label found less often is named


@dataclass(frozen=True)
class Sentence:
    """One thing that is known; `kind` as in KINDS."""

    kind: str
    text: str


def headline(sentences: list[Sentence]) -> tuple[str, str]:
    """(kind, words): the worst of what is known; what is unknown spoils no verdict but its absence."""
    kinds = {one.kind for one in sentences}
    kind = next((kind for kind in KINDS if kind in kinds), "unknown")
    return kind, HEADLINES[kind]


def sentences(desk: Desk, measured: Measured | None) -> list[Sentence]:
    """What the verdict rests on, the worst first."""
    bundle, output = desk.engine.bundle, desk.library.info.output
    found: list[Sentence] = []
    if bundle is None:
        found.append(
            Sentence(
                "unknown",
                "What training and export measured is not at hand. Open the page with the encoder's bundle: "
                f"jepack app {desk.library.folder} --bundle BUNDLE",
            )
        )
    else:
        found += of_bundle(bundle, output, desk.engine.null is not None)
    if measured is not None:
        found += [*of_directions(measured), *of_finding(measured)]
    return sorted(found, key=lambda one: KINDS.index(one.kind))


def of_bundle(bundle: Bundle, output: str, null: bool) -> list[Sentence]:
    gate = bundle.manifest.get("gate") or {}
    refused = bool(standing.forced(bundle))
    found = [Sentence("bad" if refused else "limit", f"{note}.") for note in standing.notes(bundle)]
    found += [
        Sentence("limit", f"The export gate warned: {one}") for one in gate.get("warnings", [])
    ]
    if gate and not refused:
        found.append(
            Sentence("good", "It passed the gate of export: neither collapsed nor distorted.")
        )
    elif not gate:
        found.append(Sentence("unknown", f"It never passed a gate: jepack export {bundle.folder}"))
    if null:
        found.append(Sentence("good", "It can say how ordinary a new image is."))
    else:
        found.append(
            Sentence(
                "limit",
                "It cannot say how ordinary a new image is, nor watch for drift: its bundle holds no null. "
                f"jepack export {bundle.folder} --data IMAGES, with 64 or more held-out images, makes one.",
            )
        )
    return [*found, *of_projection(bundle), *of_held_out(bundle, output)]


def of_projection(bundle: Bundle) -> list[Sentence]:
    """How near the calibrated output is to N(0, I), and what is promised on that."""
    told = report_of(bundle, "projection")
    if not told:
        return []
    ratio = told["statistic"] / told["floor"]
    on = f"On {told['samples']:,} held-out images its projection is"
    if bundle.promises.get("atypicality"):
        return [Sentence("good", f"{on} as good as Gaussian ({ratio:.1f} times chance).")]
    return [
        Sentence(
            "limit",
            f"{on} not quite Gaussian: its departure is {ratio:.1f} times that of chance (1 is the bell "
            "curve itself). So p-values come from counting held-out images, not from a formula.",
        )
    ]


def of_held_out(bundle: Bundle, output: str) -> list[Sentence]:
    found = bundle.manifest.get("retrieval") or {}
    if found.get("basis") != "measured":
        return []
    share, chance = found["outputs"][output]["precision_at_10"], found["chance"]
    kind = "good" if share > chance else "bad"
    return [
        Sentence(
            kind,
            f"On {found['queries']:,} held-out images {share:.0%} of the ten nearest have the same label; "
            f"at random about {chance:.0%}.",
        )
    ]


def report_of(bundle: Bundle, output: str) -> dict[str, Any]:
    """What export measured of an output on held-out images; {} where nothing sound stands there."""
    outputs = bundle.isotropy().get("outputs")
    told = outputs.get(output) if isinstance(outputs, dict) else None
    names = ("statistic", "floor", "samples", "effective_rank", "dimensions")
    sound = isinstance(told, dict) and all(
        isinstance(told.get(name), (int, float)) and told[name] > 0 for name in names
    )
    return dict(told or {}) if sound else {}


def of_directions(measured: Measured) -> list[Sentence]:
    found = breadth(measured.report)
    return [Sentence(OF_BREADTH[found.kind], f"The images here {found.text}.")]


def of_finding(measured: Measured) -> list[Sentence]:
    one = measured.overall
    if one is None:
        text = "How well like finds like is not known: the images here have no two labels."
        return [Sentence("unknown", text)]
    text = (
        f"In this index {one.share:.0%} of the ten nearest have the image's label (95 % interval "
        f"{one.low:.0%} to {one.high:.0%}, {one.images:,} images asked); at random {measured.chance:.0%}"
    )
    if one.low <= measured.chance:
        return [Sentence("bad", f"{text}. That is no better than chance.")]
    found = [Sentence("good", f"{text}.")]
    weak = [
        part for part in measured.labels if part.high < one.share and part.share < WEAK * one.share
    ]
    if weak:
        named = ", ".join(f"“{part.label}” ({part.share:.0%})" for part in weak[:3])
        more = f" and {len(weak) - 3} more" if len(weak) > 3 else ""
        found.append(Sentence("limit", f"It finds the like of these far worse: {named}{more}."))
    return found
