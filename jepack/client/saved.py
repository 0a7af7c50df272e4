"""Reading what `jepack embed` wrote."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jepack.errors import ArtifactError


@dataclass(frozen=True)
class Saved:
    """One output's rows, each of the image of that name below the data folder."""

    names: list[str]
    vectors: npt.NDArray[Any]  # [N, D]
    fingerprint: str


def read_saved(path: Path, output: str) -> Saved:
    """One output of an .npz of `jepack embed`. Raises ArtifactError saying what it lacks."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names, vectors = arrays["path"], arrays[output]
            fingerprint = str(arrays[f"fingerprint_{output}"])
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        reason = f"no such file: {path}" if isinstance(error, FileNotFoundError) else str(error)
        raise ArtifactError(
            f"{path}: not a file of embeddings ({reason}). Make it: jepack embed DATA --out photos.npz"
        ) from error
    if vectors.ndim != 2 or len(vectors) != len(names):
        raise ArtifactError(f"{path}: {len(names)} paths, but {output} of shape {vectors.shape}")
    return Saved([str(name) for name in names.tolist()], vectors, fingerprint)
