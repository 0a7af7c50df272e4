"""The bundle of a run that is done: whether it is there, of these weights, and what becomes of it."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.errors import ArtifactError
from training.run import sameness
from training.run.state import Session, State
from training.run.telling import print_line


def finished_bundle(session: Session, out: Path) -> Bundle | None:
    """The bundle of a run that has no step left, if it is sound and of these weights and this data."""
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
    return bundle if told == state.record["license"] and not relabelled else None


def bundle_of(state: State, out: Path) -> Bundle | None:
    """The sound bundle of `out`, if it holds the weights of `state` and was made of its images."""
    try:
        bundle = bundles.load(out / "bundle")
        source = bundle.manifest["provenance"]
        digest = source["data"]["digest"]
        same = source["steps"] == state.step and digest == state.record["data"]["digest"]
    except (ArtifactError, KeyError, TypeError):
        return None
    return bundle if same else None


def keep_bundle(state: State, out: Path) -> str:
    """Move a bundle of the same weights aside, with its exports and probes; a sentence, or nothing."""
    if bundle_of(state, out) is None:
        return ""
    numbers = (n for n in itertools.count(1) if not os.path.lexists(out / f"bundle.old-{n}"))
    target = out / f"bundle.old-{next(numbers)}"
    os.rename(out / "bundle", target)
    return f"the bundle of these weights is written anew; the one before, with its exports, is {target}"


def told_finished(state: State, out: Path) -> Bundle:
    """The bundle that is there, with a line that says so; nothing is written."""
    bundle = bundles.load(out / "bundle")
    print_line(
        f"{out} is finished (step {state.step:,} of {state.total:,}) and this is the same run: reusing its "
        "bundle. More --epochs continue it, --fresh starts over"
    )
    return bundle
