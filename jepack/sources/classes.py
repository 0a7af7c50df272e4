"""The classes of images, and their numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from jepack.sources.image import ImageFile


def classes_of(files: Sequence[ImageFile]) -> tuple[str, ...]:
    """The names of the classes, sorted."""
    return tuple(sorted({file.label for file in files if file.label is not None}))


def class_ids(files: Sequence[ImageFile]) -> npt.NDArray[np.int64]:
    """[N] index into `classes_of`, -1 where an image has no label."""
    lookup: dict[str | None, int] = {name: number for number, name in enumerate(classes_of(files))}
    return np.array([lookup.get(file.label, -1) for file in files], np.int64)
