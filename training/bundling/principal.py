"""A projection head for an encoder that has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from jepack.encoder import Projector, ProjectorConfig

SILENT_SHARE = 1e-3  # of the mean variance, the floor of isotropy.fit_calibration


def principal_projector(embedding_NE: Any, dims: int) -> Projector:
    """The map to the `dims` directions in which these embeddings vary most, centred.

    For encoders that were not trained with a projector; calibration then whitens its output. Never
    more dims than the embedding has, nor than half the images (the rest could not be estimated), and
    none that holds next to no variance: whitening leaves those as they are.
    """
    x = np.asarray(embedding_NE, np.float64)
    mean = x.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(x, rowvar=False).reshape(x.shape[1], -1))
    alive = int((values > SILENT_SHARE * max(values.sum(), 1e-300) / dims).sum())
    dims = max(1, min(dims, alive, len(x) // 2))
    rows = vectors.T[::-1][:dims]
    rows = rows * np.where(rows.sum(axis=1, keepdims=True) < 0, -1.0, 1.0)  # eigh leaves signs open
    head = Projector(ProjectorConfig(in_features=x.shape[1], out_features=dims, layers=1))
    linear: Any = head[0]
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(rows.copy()))
        linear.bias.copy_(torch.from_numpy(-rows @ mean))
    return head
