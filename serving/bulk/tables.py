"""Parquet of a run: its bytes, and what is read back of it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jepack.client import parquet
from jepack.errors import ArtifactError
from serving.bulk.rows import Keys, Rows, Totals

# Vectors have no values in common; a dictionary of them would only be given up on the way.
HOW = {"compression": "zstd", "use_dictionary": ["label", "reason"]}


def row_bytes(rows: Rows, about: dict[str, str]) -> bytes:
    import pyarrow as pa

    columns = {
        "path": pa.array(rows.names, pa.string()),
        "label": pa.array(rows.labels, pa.string()),
    }
    for output, values in rows.outputs.items():
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        columns[output] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return table_bytes(pa.table({**columns, **rows.said}), about)


def bad_bytes(bad: list[tuple[str, str, str]], about: dict[str, str]) -> bytes:
    import pyarrow as pa

    columns = zip(("path", "label", "reason"), zip(*bad, strict=True), strict=True)
    return table_bytes(
        pa.table({name: pa.array(some, pa.string()) for name, some in columns}), about
    )


def table_bytes(table: Any, about: dict[str, str]) -> bytes:
    stream = io.BytesIO()
    parquet().write_table(table.replace_schema_metadata(about), stream, **HOW)
    return stream.getvalue()


def names_of(file: Path) -> Iterator[list[str]]:
    """Raises ArtifactError where a part cannot be read."""
    try:
        for batch in parquet().ParquetFile(file).iter_batches(columns=["path"]):
            yield batch.column("path").to_pylist()
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(
            f"{file}: cannot be read ({error}). Remove it, and the same command embeds its images anew"
        ) from error


def keys_of(files: Iterable[Path]) -> Keys:
    return Keys(names for file in files for names in names_of(file))


def bad_rows(file: Path) -> Iterator[tuple[str, str, str]]:
    table = parquet().read_table(file, columns=["path", "label", "reason"])
    yield from zip(*(column.to_pylist() for column in table.columns), strict=True)


def totals_of(rows: list[Path], bad: list[Path], most: int) -> Totals:
    def count(files: list[Path]) -> int:
        return sum(parquet().read_metadata(file).num_rows for file in files)

    reasons: dict[str, str] = {}
    for file in bad:
        if len(reasons) >= most:
            break
        reasons.update((name, reason) for name, _, reason in bad_rows(file))
    return Totals(count(rows), count(bad), dict(list(reasons.items())[:most]))
