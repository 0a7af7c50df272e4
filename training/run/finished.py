"""The bundle of a run that is done: whether it is there, of these weights, and what becomes of it."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.errors import ArtifactError
from training.run import sameness
from training.run.state import Session, State
from training.run.telling import print_line

BELOW_START = (
    "below-start"  # the bundle of a run's own weights, where its start's are kept in their place
)


def finished_bundle(session: Session, out: Path) -> Bundle | None:
    """The bundle of a run that has no step left, if it is sound, of these steps and this data, and holds
    the weights that are asked for."""
    state = session.state
    if state.step < state.total:
        return None
    bundle = bundle_of(state, out)
    if bundle is None:
        return None
    source, labels = bundle.manifest["provenance"], state.record["data"]["labels"]
    told = source.get("license", sameness.NOT_STATED)
    if state.record["license"] == sameness.NOT_STATED:  # said once, it stays said
        state.record["license"] = told
    relabelled = source["labels"] != labels if "labels" in source else "labels" in session.changed
    same = told == state.record["license"] and not relabelled and keeps_as_asked(state, source)
    return bundle if same else None


def keeps_as_asked(state: State, provenance: dict[str, Any]) -> bool:
    """Whether a bundle holds what `keep_start` asks for: the start's weights, of a run that ended below."""
    start = provenance.get("start") or {}
    below = (start.get("compared") or {}).get("verdict") == "below"
    return bool(start.get("kept")) == (below and bool(state.record["settings"]["keep_start"]))


def bundle_of(state: State, out: Path) -> Bundle | None:
    """The sound bundle of `out`, if it was made of the steps of `state` and its images."""
    try:
        bundle = bundles.load(out / "bundle")
        source = bundle.manifest["provenance"]
        digest = source["data"]["digest"]
        same = source["steps"] == state.step and digest == state.record["data"]["digest"]
    except (ArtifactError, KeyError, TypeError):
        return None
    return bundle if same else None


def keep_bundle(state: State, out: Path) -> str:
    """Move a bundle of the same steps aside, with its exports and probes; a sentence, or nothing."""
    if bundle_of(state, out) is None:
        return ""
    target = put_aside(out / "bundle")
    return (
        f"the bundle of these steps is written anew; the one before, with its exports, is {target}"
    )


def put_aside(folder: Path) -> Path:
    """Rename to FOLDER.old-N, the first N that is free."""
    places = (folder.with_name(f"{folder.name}.old-{n}") for n in itertools.count(1))
    target = next(place for place in places if not os.path.lexists(place))
    os.rename(folder, target)
    return target


def told_finished(state: State, out: Path) -> Bundle:
    """The bundle that is there, with a line that says so; nothing is written."""
    bundle = bundles.load(out / "bundle")
    kept = (bundle.manifest["provenance"].get("start") or {}).get("kept")
    own = f" (the weights of its start; its own are in {out / BELOW_START})" if kept else ""
    print_line(
        f"{out} is finished (step {state.step:,} of {state.total:,}) and this is the same run: reusing its "
        f"bundle{own}. More --epochs continue it, --fresh starts over"
    )
    return bundle
