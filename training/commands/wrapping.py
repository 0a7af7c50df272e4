"""An encoder that was trained elsewhere -> its bundle: how it is fed, and a projection of the user's images.

The projection is made of the principal components of its embeddings of these images, whitened.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from jepack.bundle import Bundle
from jepack.decoding import FITS, Pixels, Window, preprocess
from jepack.encoder import Encoder, Projector, ProjectorConfig, embedding_dims
from jepack.errors import DataError
from jepack.names import tell
from jepack.sources import ImageFile, Source, class_ids, find_images
from jepack.terminal import counter
from training import bundling
from training.bundling import Content
from training.commands.reading import readable
from training.commands.weights import Weights
from training.data import Split, cautions, column, measure_window, training_split
from training.run import preprocessing_of

NEEDED_IMAGES = 32
HELD_OUT_SHARE = 0.25


def wrap(
    weights: Weights,
    data: Source,
    out: Path,
    *,
    channels: int,
    size: int,
    projection_dims: int,
    license: str,
    seed: int,
    device: torch.device | None = None,
    window: str | None = None,
    group_by: str | None = None,
    fit: str | None = None,
) -> Bundle:
    """Fit the projection on most of the images, measure on the rest, write the bundle."""
    files, contents, span = images_for(data, window, channels)
    digest = hashlib.sha256(b"".join(bytes.fromhex(content) for content in contents)).hexdigest()
    preprocessing = replace(preprocessing_of(weights.stated, channels, size), window=span)
    if fit is not None:
        preprocessing = replace(preprocessing, crop_mode=FITS[fit])
    width = embedding_dims(weights.backbone.eval(), channels, preprocessing.size)
    unused = Projector(ProjectorConfig(in_features=width, out_features=1, layers=1))
    fitting, held_out = training_split(files, HELD_OUT_SHARE, seed, group_by, contents)

    def read(indices: Any) -> Pixels:
        return np.stack([preprocess.load(files[int(i)].read(), preprocessing) for i in indices])

    provenance = {
        "data": bundling.data_of(data, files, digest, held_out, seed),
        "weights": {"origin": weights.origin, "sha256": weights.sha256},
        "license": license,
        "commit": bundling.commit(),
        "versions": bundling.versions(),
    }
    content = Content(
        encoder=Encoder(weights.backbone, unused),
        preprocessing=preprocessing,
        architecture=weights.architecture,
        model_args=weights.model_args,
        method="imported",
        story=f"A `{weights.architecture}` with weights from {weights.origin}, not trained further. Its "
        f"projection was fitted on {len(fitting):,} images, {len(held_out):,} others were kept out to "
        f"judge it.\nLicence of the weights: {license}.",
        limits="How well these weights suit a domain is not known before `jepack probe` is run on it.",
        provenance=provenance,
        read=read,
        split=Split(fitting, held_out),
        seed=seed,
        labels=class_ids(files),
        groups=column(files, group_by) if group_by else None,
        fit_projection=projection_dims,
    )
    with counter("embed") as show:
        return bundling.assemble(out, content, show, device=device or bundling.CPU)


def images_for(
    data: Source, window: str | None, channels: int
) -> tuple[list[ImageFile], list[str], Window]:
    """The files that decode, the SHA-256 of each one's bytes, and the window they are shown through.

    Raises DataError where there are too few to fit a projection.
    """
    notes: list[str] = []
    files = find_images(data, parts=True, notes=notes)
    span = measure_window(files, window, channels)
    tell(Console(stderr=True), [*notes, *cautions(files, channels, span)])
    files, contents = readable(files, channels, span)
    if len(set(contents)) < NEEDED_IMAGES:
        alike = f", {len(set(contents))} different" if len(set(contents)) < len(files) else ""
        raise DataError(
            f"{data}: {len(files)} readable images{alike}; the projection needs {NEEDED_IMAGES} or more"
        )
    return files, contents, span
