"""The two sides of `jepack drift`: what is ordinary, and the images that are compared with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from jepack import bundle as bundles
from jepack.client import Client, Saved, is_saved, read_saved
from jepack.commands import drift_page
from jepack.decoding import Preprocessing
from jepack.errors import ArtifactError, DataError, listed
from jepack.measures import Null, fit_null
from jepack.names import marked_lines, tell
from jepack.sources import ImageFile, Source, find_images
from jepack.terminal import bar as progress_bar

TAKEN = (
    "Embeddings are taken from what `jepack embed` wrote: an .npz, a .parquet or a folder of parts"
)
READ_AS = {
    "file": "It was read as a file of images",
    "manifest": "It was read as a table that names images",
}


@dataclass(frozen=True)
class Ordinary:
    """What images are compared with."""

    kind: str  # "bundle" or "ordinary_from"
    name: str
    null: Null
    fingerprint: str  # of the projection
    mend: str  # how to embed images in its space
    preprocessing: Preprocessing | None = None

    @classmethod
    def of(cls, place: str) -> Ordinary:
        """A bundle's null, or one of the projections of a file. Raises ArtifactError, DataError."""
        refuse_missing(place)
        if is_saved(place):
            found = read_saved(Path(place), "projection")
            try:
                null = fit_null(found.vectors)
            except DataError as error:
                raise DataError(f"{place}: {error}") from error
            mend = f"Embed both with one bundle: jepack embed IMAGES --out {place}"
            return cls("ordinary_from", place, null, found.fingerprint, mend)
        if Path(place).is_file():
            raise ArtifactError(
                f"{place}: a file that holds no embeddings. What is ordinary is a bundle, a folder. {TAKEN}"
            )
        bundle = bundles.load(place)
        held = bundle.null()
        if held is None:
            raise ArtifactError(
                f"{place}: holds no {bundles.NULL}, which 64 or more held-out images give. Make it: "
                f"jepack export {place} --data IMAGES"
            )
        mend = (
            f"Embed the images with this bundle: jepack serve {place}, then "
            "jepack embed IMAGES --out FILE.npz"
        )
        wanted = bundle.fingerprints["projection"]
        return cls("bundle", bundle.name, held, wanted, mend, bundle.preprocessing)


def given(images: str, url: str, model: str, least: int) -> tuple[Saved, list[ImageFile]]:
    """Projections, and the images they are of where those are at hand; of fewer than `least` images none is
    sent. Raises DataError."""
    refuse_missing(images)
    if is_saved(images):
        return read_saved(Path(images), "projection"), []
    return embedded(images, url, model, least)


def refuse_missing(place: str) -> None:
    """Raise DataError for a file of embeddings, by its name, that is not there."""
    if Path(place).suffix in (".npz", ".parquet") and not Path(place).exists():
        raise DataError(
            f"{place}: no such file. Make it: jepack embed IMAGES --out {place}, or name a folder of images"
        )


def thumbnails_of(files: Sequence[ImageFile], preprocessing: Preprocessing) -> list[bytes | None]:
    """None for an image that is not there any more."""

    def one(file: ImageFile) -> bytes | None:
        try:
            return drift_page.thumbnail(file, preprocessing)
        except DataError:
            return None

    return [one(file) for file in files]


def embedded(data: str, url: str, model: str, least: int) -> tuple[Saved, list[ImageFile]]:
    """The images of a folder, manifest, ..., by a running endpoint; bad ones are told and left out."""
    source, notes = Source.of(data), list[str]()
    try:
        files = find_images(source, parts=True, notes=notes)
    except DataError as error:
        raise DataError(f"{error}{taken_as(source)}") from error
    if len(files) < least:
        few = f"{len(files)} images, drift is looked for in {least} or more: give more of them"
        raise DataError(f"{data}: {few}{taken_as(source)}")
    console = Console(stderr=True)
    with Client(url, model=model) as client, progress_bar(console, transient=True) as bar:
        client.endpoint()  # what keeps us from asking is told before what is known of the images
        tell(console, notes)
        task = bar.add_task("embedding", total=len(files))
        found = client.embed(
            [file.path if file.part is None else file for file in files],
            skip_bad=True,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if found.errors:
        bad = listed((files[number].name, reason) for number, reason in found.errors.items())
        console.print(
            f"[yellow]{len(found.errors)} bad images left out:[/]\n{marked_lines(bad)}",
            soft_wrap=True,
        )
    good = [file for file, fine in zip(files, found.good, strict=True) if fine]
    names = [file.name_below(source.base) for file in good]
    return Saved(names, found.projection[found.good], found.fingerprints["projection"]), good


def taken_as(source: Source) -> str:
    """For who meant a file otherwise: how it was read, and what else is taken."""
    return f". {READ_AS[source.kind]}. {TAKEN}" if source.kind in READ_AS else ""


def refuse_other_space(ordinary: Ordinary, found: Saved, source: str) -> None:
    if found.fingerprint != ordinary.fingerprint:
        raise ArtifactError(
            f"{source}: projections of {found.fingerprint}, those of {ordinary.name} are "
            f"{ordinary.fingerprint}. {ordinary.mend}"
        )
