"""The check of an index, from its vectors, thumbnails and labels to a report. No image is changed.

Works on what is stored; the data folder is looked at where it is at hand (broken files, the split).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from app.checking import copies, files, labels, leaks, strange
from app.checking.material import Progress, gather
from app.checking.pictures import look
from app.checking.report import Report
from app.store import IndexInfo, VectorStore
from jepack.bundle import Bundle
from jepack.errors import DataError, JepackError
from jepack.sources import ImageFile, find_images, record_of

Told = Callable[[str, float], None]  # what is being done, and the share of all that is done
# What each part takes of the whole, roughly, of 2,400 images of 512 dimensions.
SHARES = {"neighbours": 0.1, "pictures": 0.2, "copies": 0.3, "labels": 0.3, "unusual": 0.1}


def check(
    store: VectorStore, bundle: Bundle | None = None, tell: Told = lambda what, share: None
) -> Report:
    """All findings over an index. Raises DataError for an empty one."""
    if not store.count():
        raise DataError(
            f"{store.info.name}: the index holds no image. Build it: jepack index DATA --out INDEX"
        )
    advance = steps(tell)
    material = gather(store, advance("neighbours"))
    pictures = look(store, material.ids, advance("pictures"))
    found, group_N = copies.find(material, pictures, advance("copies"))
    suspect = labels.find(material, group_N, advance("labels"))
    null = bundle.null() if bundle is not None and store.info.output == "projection" else None
    unusual = strange.find(material, null, advance("unusual"))
    folder = images_of(store.info)
    names = [image.name_below(Path(store.info.data)) for image in folder or ()]
    leaking = leaks.find(material, found, split_of(bundle, folder or (), names))
    bad = files.find(material, pictures, folder, names)
    tell("done", 1.0)
    return Report(
        index=store.info.name,
        images=len(material.ids),
        version=store.info.created,
        findings=(found, leaking, suspect, unusual, *bad),
    )


def steps(tell: Told) -> Callable[[str], Progress]:
    """A progress for each part, all of which make one."""

    def of(part: str) -> Progress:
        before = sum(
            share
            for name, share in SHARES.items()
            if list(SHARES).index(name) < list(SHARES).index(part)
        )
        return lambda share: tell(part, min(1.0, before + SHARES[part] * share))

    return of


def images_of(info: IndexInfo) -> list[ImageFile] | None:
    """What lies in the data folder now; None where it is not at hand."""
    try:
        return find_images(info.data, parts=True)
    except (JepackError, OSError):
        return None


def split_of(
    bundle: Bundle | None, folder: Sequence[ImageFile], names: Sequence[str]
) -> dict[str, str]:
    """{id: part}: as the folder's own split says; else what the bundle's training was fitted on, and
    what not."""
    own = {
        name: image.columns["split"]
        for name, image in zip(names, folder, strict=True)
        if image.columns.get("split")
    }
    if own or bundle is None:
        return own
    record = record_of(bundle.manifest)
    if not record.known:
        return {}
    fitted = record.fitted_on(folder)
    return {name: "train" if seen else "test" for name, seen in zip(names, fitted, strict=True)}
