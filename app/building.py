"""Images -> an index on disk, as `jepack index` and `jepack app BUNDLE --data` make it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from app import indexing
from app.columns import columns_of
from app.engine import Engine
from app.indexing import Indexed, Origin
from app.store import IndexInfo
from app.updating import Kept
from jepack.bundle import Bundle
from jepack.names import kept
from jepack.sources import ImageFile, Source
from jepack.terminal import bar as progress_bar


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which images, which vectors, and what the page shows of them."""

    named: Source  # absolute
    images: list[ImageFile]
    output: str | None = None  # None: what the encoder's bundle says to search by
    name: str | None = None
    data_license: str | None = None
    recall: float | None = None  # of approximate search at least, see approximate.wanted

    def digest(self) -> str:
        """Of the images' names: another one when an image has come or gone."""
        names = sorted(image.name_below(self.named.base) for image in self.images)
        return hashlib.sha256("\0".join(names).encode(errors="surrogateescape")).hexdigest()[:16]


def build(
    out: Path | str, plan: Plan, given: Engine | Path, console: Console, kept: Kept | None = None
) -> tuple[Indexed, Origin]:
    """Write the index at `out`; vectors from an engine, or from a file of `jepack embed`.

    An index already there is replaced when the new one is whole; `kept`: what stays of it, of an engine only.
    """
    base, skipped = plan.named.base, dict[ImageFile, str]()
    with progress_bar(console, transient=True) as bar:
        advance = partial(bar.advance, bar.add_task("Indexing", total=len(plan.images)))
        if isinstance(given, Path):
            origin = indexing.of_file(given, plan.output, plan.images, base, skipped, advance)
            return written(out, plan, origin, skipped), origin
        embedder = given.connect()
        try:
            origin = indexing.of_embedder(
                embedder, given.place, plan.output, plan.images, skipped, advance
            )
            if kept is not None:
                kept.check(out, origin.output, origin.fingerprint)
                new = partial(
                    indexing.from_embedder,
                    output=origin.output,
                    embedder=embedder,
                    skipped=skipped,
                    on_progress=advance,
                )
                origin = replace(origin, parts=kept.parts(plan.images, new, advance))
            return written(out, plan, origin, skipped, given.bundle, kept), origin
        finally:
            embedder.close()


def written(
    out: Path | str,
    plan: Plan,
    origin: Origin,
    skipped: dict[ImageFile, str],
    bundle: Bundle | None = None,
    kept: Kept | None = None,
) -> Indexed:
    info = IndexInfo(
        name=plan.name or name_of(plan.named),
        output=origin.output,
        dimension=0,
        fingerprint=origin.fingerprint,
        data=str(plan.named.base),
        bundle=origin.bundle,
        bundle_folder=None if bundle is None else str(bundle.folder.absolute()),
        data_license=plan.data_license,
        asked=plan.digest(),
        crop_pct=origin.crop_pct,
        crop_mode=origin.crop_mode,
        columns=tuple(columns_of(image.columns for image in plan.images)),
    )
    return indexing.write_index(
        out, info, origin.parts, skipped, origin.window, kept, plan.recall, origin.newer
    )


def name_of(named: Source) -> str:
    return kept(named.path.name if named.path.is_dir() else named.path.stem)
