"""A journal as files that others read: its actions as a table, what holds now as a manifest."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from app.journal import Action, Standing
from jepack.errors import ConfigError
from jepack.files import write_bytes
from jepack.names import original
from jepack.sources import ImageFile

COLUMNS = ("number", "at", "who", "kind", "value", "image", "undone")


def write_actions(path: Path, actions: Sequence[Action]) -> None:
    """One row for each image of each action, as .csv or .parquet. Raises ConfigError for another ending."""
    rows = [
        (one.number, one.at, one.who, one.kind, one.value, image, one.undone or "")
        for one in actions
        for image in one.images
    ]
    if path.suffix.lower() == ".csv":
        write_bytes(path, as_csv(COLUMNS, rows))
    elif path.suffix.lower() == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
        kinds = [pa.int64(), *[pa.string()] * (len(COLUMNS) - 1)]
        arrays = [pa.array(list(c), kind) for c, kind in zip(columns, kinds, strict=True)]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(arrays, names=list(COLUMNS)), sink)
        write_bytes(path, sink.getvalue().to_pybytes())
    else:
        raise ConfigError(f"{path}: a journal is written as .csv or .parquet")


def write_manifest(
    path: Path,
    catalogue: Iterable[tuple[str, str | None]],
    standing: Standing,
    data: Path,
    images: Sequence[ImageFile] = (),
) -> int:
    """What `jepack train`, `probe` and `index` read: a .csv of every image not left out; the number of them.

    `catalogue`: (id, label of its folder) of the index, whose ids count from `data`. Columns: path, label,
    part, tags (parted by spaces; a space inside one is an underscore), and those that `images` (of `data`)
    bring. An image without a label has an empty one.
    """
    if path.suffix.lower() != ".csv":
        raise ConfigError(f"{path}: a manifest is written as .csv")
    known = {image.name_below(data): image for image in images}
    more = sorted({name for image in images for name in image.columns} - {"tags"})
    boxes = any(image.box or image.mask for image in images)
    rows = []
    for name, folder in catalogue:
        if name in standing.left_out:
            continue
        image = known.get(name) or image_of(name, data)
        tags = " ".join(tag.replace(" ", "_") for tag in sorted(standing.tags.get(name, ())))
        row = [
            place_from(path, image.path), original(standing.label(name, folder) or ""),
            image.part or "", tags, *(image.columns.get(column, "") for column in more),
        ]  # fmt: skip
        if boxes:
            mask = "" if image.mask is None else place_from(path, image.mask)
            row += [" ".join(f"{number:g}" for number in image.box or ()), mask]
        rows.append(row)
    header = ("path", "label", "part", "tags", *more, *(("box", "mask") if boxes else ()))
    write_bytes(path, as_csv(header, rows))
    return len(rows)


def image_of(name: str, data: Path) -> ImageFile:
    """The image that an index calls `name`; what follows a `#` is its part, where no file is called so."""
    words = original(name).split("#")
    for count in range(len(words), 0, -1):
        path = data / "#".join(words[:count])
        if path.exists():
            return ImageFile(path, part="#".join(words[count:]) or None)
    return ImageFile(data / words[0], part="#".join(words[1:]) or None)


def place_from(manifest: Path, file: Path) -> str:
    """As the manifest names it: from its own folder where it lies below, else whole."""
    folder = manifest.absolute().parent
    file = file.absolute()
    return file.relative_to(folder).as_posix() if folder in file.parents else file.as_posix()


def as_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode(errors="surrogateescape")
