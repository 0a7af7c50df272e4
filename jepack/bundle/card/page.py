"""The model card: a README made from what was measured, with metadata the Hub reads.

Nothing here is an opinion: a figure that was not measured is not in the card, and the card says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jepack.bundle import origin, privacy
from jepack.bundle.card import about, gate, history, kept, measured, search, watching
from jepack.bundle.card.markdown import read_json
from jepack.bundle.card.measured import isotropy_of
from jepack.bundle.card.metadata import eval_results_yaml, front_matter
from jepack.bundle.card.picture import PICTURE, draw
from jepack.files import write_bytes

CARD = "README.md"
PROBES = "probes.json"  # a list of `jepack probe --json` results, baselines among them
MADE = "<!-- Made by jepack from measurements: changes above the last such line will be lost. -->"
NOTES = "<!-- Your notes: what stands below is kept when the card is made anew. -->"


def refresh(stage: Path, manifest: dict[str, Any], *, repo: str | None = None) -> None:
    """Write README.md, isotropy.png and .eval_results/ of a bundle being written or edited.

    Call it last inside `bundle.writing` or `bundle.editing`, with the manifest as it will be. Notes of
    the user below the card's last line are kept; a README that jepack did not make is left alone.
    manifest["card"] may bring words that no figure tells: story (how the weights came to be), limits,
    projection (what the head is, where it was not trained).
    """
    manifest = origin.marked(stage, manifest)
    reports, _ = isotropy_of(read_json(stage / "isotropy.json"))
    if reports:
        write_bytes(stage / PICTURE, draw(reports))
    results = stage / ".eval_results" / "probes.yaml"
    if text := eval_results_yaml(read_json(stage / PROBES) or []):
        write_bytes(results, text.encode())
    else:
        results.unlink(missing_ok=True)
    write(stage, manifest, repo=repo)


def write(stage: Path, manifest: dict[str, Any], *, repo: str | None = None) -> None:
    """README.md alone, as `refresh` does; draws nothing."""
    if is_ours(stage):
        text = make(stage, origin.marked(stage, manifest), repo=repo)
        write_bytes(stage / CARD, text.encode(errors="backslashreplace"))


def is_ours(folder: Path) -> bool:
    """May the card of this folder be made anew? Not when a person wrote one instead."""
    path = folder / CARD
    if not path.is_file():
        return True
    text = path.read_text()
    return MADE in text or "tags: [jepack," in text  # the second: cards of early bundles


def make(folder: Path, manifest: dict[str, Any], *, repo: str | None = None) -> str:
    """The card's text, from the bundle's files and its manifest. No path of this machine is in it."""
    manifest = privacy.without_paths(manifest)
    isotropy = privacy.without_paths(read_json(folder / "isotropy.json") or {})
    probes = privacy.without_paths(read_json(folder / PROBES) or [])
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    sections = [
        MADE,
        about.summary(folder, manifest),
        history.data(manifest),
        history.recipe(manifest, present),
        measured.probes(probes),
        kept.section(folder),
        search.section(manifest),
        measured.isotropy(isotropy, PICTURE if PICTURE in present else None),
        gate.gate(manifest),
        watching.section(folder),
        gate.exports(isotropy),
        about.loading(manifest, present, repo),
        about.use(manifest),
        about.limits(manifest, isotropy, probes),
        history.provenance(manifest),
        NOTES,
    ]
    body = "\n\n".join(section.strip() for section in sections if section)
    reports, _ = isotropy_of(isotropy)
    return f"---\n{front_matter(manifest, probes, reports)}\n---\n{body}\n{notes_of(folder)}"


def notes_of(folder: Path) -> str:
    """What a person wrote below the card."""
    path = folder / CARD
    text = path.read_text() if path.is_file() else ""
    return text.partition(NOTES)[2].removeprefix("\n")
