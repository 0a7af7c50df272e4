"""Reading what `jepack embed` wrote: an .npz, or a .parquet."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jepack.decoding import need
from jepack.errors import ArtifactError, DependencyError

PREFIX = "fingerprint_"  # of an output; of a .parquet in the metadata of its columns


@dataclass(frozen=True)
class Saved:
    """One output's rows, each of the image of that name below the data folder."""

    names: list[str]
    vectors: npt.NDArray[Any]  # [N, D]
    fingerprint: str


def is_saved(path: Path) -> bool:
    """Whether a file is to hold embeddings: any .npz, and a .parquet that tells their fingerprint.

    Other .parquet files are tables that name images, or hold them.
    """
    if path.suffix.lower() != ".parquet" or not path.is_file():
        return path.suffix.lower() == ".npz"
    try:
        about = need("pyarrow.parquet", "datasets").read_schema(path).metadata or {}
    except (DependencyError, OSError, ValueError):  # whoever reads it says what is wrong
        return False
    return any(key.startswith(PREFIX.encode()) for key in about)


def read_saved(path: Path, output: str) -> Saved:
    """One output of a file of `jepack embed`. Raises ArtifactError saying what it lacks."""
    read = read_parquet if path.suffix.lower() == ".parquet" else read_npz
    try:
        names, vectors, fingerprint = read(path, output)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        reason = f"no such file: {path}" if isinstance(error, FileNotFoundError) else str(error)
        raise ArtifactError(
            f"{path}: not a file of embeddings ({reason}). Make it: jepack embed DATA --out photos.npz"
        ) from error
    if vectors.ndim != 2 or len(vectors) != len(names):
        raise ArtifactError(f"{path}: {len(names)} paths, but {output} of shape {vectors.shape}")
    return Saved([str(name) for name in names], vectors, fingerprint)


def read_npz(path: Path, output: str) -> tuple[list[str], npt.NDArray[Any], str]:
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["path"].tolist(), arrays[output], str(arrays[PREFIX + output])


def read_parquet(path: Path, output: str) -> tuple[list[str], npt.NDArray[Any], str]:
    table = need("pyarrow.parquet", "datasets").read_table(path, columns=["path", output])
    rows = table.column(output).combine_chunks()
    vectors = rows.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), -1)
    return (
        table.column("path").to_pylist(),
        vectors,
        table.schema.metadata[(PREFIX + output).encode()].decode(),
    )
