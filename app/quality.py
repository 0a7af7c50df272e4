"""What is known of an encoder's quality, in sentences a domain expert reads."""

from __future__ import annotations

from app.scale import Scale
from app.store import IndexInfo
from jepack.bundle import Bundle, standing
from jepack.measures import Null


def of_encoder(info: IndexInfo, bundle: Bundle | None, null: Null | None) -> list[str]:
    """What its bundle tells, where that is at hand."""
    if bundle is None:
        return []
    return [*of_bundle(info, bundle), promise(bundle, null), *standing.notes(bundle)]


def of_bundle(info: IndexInfo, bundle: Bundle) -> list[str]:
    found = bundle.manifest.get("retrieval") or {}
    if found.get("basis") != "measured":
        return []
    share = found["outputs"][info.output]["precision_at_10"]
    return [
        f"On {found['queries']:,} held-out images, {share:.0%} of the ten nearest have the same label "
        f"({found['classes']} labels; at random about {found['chance']:.0%})."
    ]


def of_index(scale: Scale | None) -> list[str]:
    """How well labels are found among the index's own images, which training may have seen."""
    found = scale.overall() if scale is not None else None
    if scale is None or found is None:
        return []
    share, asked = found
    weak = ", ".join(f"{label} {part:.0%}" for label, part in scale.weakest())
    return [
        f"In this index, {share:.0%} of the ten nearest have the same label ({asked:,} images asked)"
        + (f"; weakest: {weak}." if weak else ".")
    ]


def promise(bundle: Bundle, null: Null | None) -> str:
    kept = [name for name, holds in bundle.promises.items() if holds]
    if null is not None:
        return "Says how ordinary a new image is: its bundle holds a null of held-out images."
    if "atypicality" in kept:
        return "Its projection was measured to be normal, but the bundle holds no null of held-out images."
    return "Cannot say how ordinary a new image is: the bundle holds no null of held-out images."
