"""The bundle of a training run: of the weights it ended with, or of those it started from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jepack.bundle import Bundle, load
from jepack.decoding import Pixels
from jepack.encoder import Encoder
from jepack.sources import class_ids
from training.bundling.assembling import Content, assemble
from training.data import column
from training.run import Prepared


def write(
    folder: Path,
    encoder: Encoder,
    prepared: Prepared,
    provenance: dict[str, Any],
    curves: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Bundle:
    """The bundle of a training run, its images embedded on the run's device."""
    content = content_of(encoder, prepared, provenance, curves)
    return assemble(folder, content, on_progress, device=prepared.here.device)


def write_start(
    folder: Path, encoder: Encoder, prepared: Prepared, provenance: dict[str, Any]
) -> Bundle:
    """The bundle of the weights that the run started from, calibrated on its images.

    The projector is the start's own; timm's weights have none, so theirs is fitted as `jepack import` does.
    """
    config = prepared.config
    method = (
        "imported" if config.init is None else load(Path(config.init)).config()["jepack"]["method"]
    )
    content = replace(
        content_of(encoder, prepared, provenance, None),
        method=method,
        story=f"A `{config.encoder}` with the weights that a run of {provenance['steps']:,} steps of "
        f"{config.method} started from, not trained further: it ended below them, so they were kept. The "
        "section Training names them and their licence.",
        limits="How well these weights suit a domain is not known before `jepack probe` is run on it.",
        fit_projection=config.projection_dims if config.init is None else 0,
        recipe=None,
    )
    return assemble(folder, content, device=prepared.here.device)


def content_of(
    encoder: Encoder, prepared: Prepared, provenance: dict[str, Any], curves: Path | None
) -> Content:
    config, images, preprocessing = prepared.config, prepared.images, prepared.preprocessing

    def read(indices: Any) -> Pixels:
        return np.stack([images.original(int(i), indices, preprocessing) for i in indices])

    data = provenance["data"]
    return Content(
        encoder=encoder,
        preprocessing=preprocessing,
        architecture=config.encoder,
        model_args=prepared.model_args,
        method=config.method,
        story=f"A `{config.encoder}` trained with {config.method} on {data['images']:,} images "
        f"(SHA-256 `{data['digest'][:16]}…`).\nLicence of the training data, which binds these weights "
        f"too: {provenance.get('license', 'other')}.",
        limits="Trained without labels on one data set; nothing is known of it outside that domain.",
        provenance=provenance,
        read=read,
        split=prepared.split,
        seed=config.seed,
        labels=class_ids(images.files),
        groups=column(images.files, config.group_by) if config.group_by else None,
        fit_projection=config.projection_dims if config.method == "ijepa" else 0,
        recipe=config.to_json(),
        curves=curves,
    )
