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

from jepack.bundle import PRETRAINED_CFG, Bundle, table_problems
from jepack.decoding import FITS, INTERPOLATIONS, Pixels, Preprocessing, Window, preprocess
from jepack.encoder import Encoder, Projector, ProjectorConfig, embedding_dims
from jepack.errors import ArtifactError, DataError
from jepack.names import tell
from jepack.sources import ImageFile, Source, class_ids, find_images
from jepack.terminal import counter
from training import bundling
from training.bundling import Content
from training.commands.reading import readable
from training.commands.weights import Weights
from training.data import Split, cautions, column, measure_window, training_split

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


def preprocessing_of(stated: dict[str, Any], channels: int, size: int) -> Preprocessing:
    """How the model's authors feed it, at this size; `stated` is timm's pretrained_cfg.

    Raises ArtifactError for what jepack cannot do the same way: another preprocessing gives other
    embeddings, and nobody would see why.
    """
    known = {name: value for name, value in stated.items() if value is not None}
    problems = table_problems(
        "pretrained_cfg", {k: v for k, v in known.items() if k in PRETRAINED_CFG}, PRETRAINED_CFG
    )
    if problems:
        raise ArtifactError(f"the model states no usable preprocessing: {'; '.join(problems)}")
    _, height, width = known.get("input_size", (3, 224, 224))
    mode, pct = known.get("crop_mode", "center"), float(known.get("crop_pct", 1.0))
    interpolation = known.get("interpolation", "bicubic")
    if height != width and not size:
        raise ArtifactError(
            f"the model takes {height} x {width} px and jepack square images: choose a side with --size"
        )
    if interpolation not in INTERPOLATIONS:
        raise ArtifactError(
            f"the model's images are resized by {interpolation!r}; jepack knows "
            f"{', '.join(INTERPOLATIONS)}, and another would give other embeddings"
        )
    if not 0.1 <= pct <= 1:
        raise ArtifactError(
            f"the model states crop_pct {pct:g}: only a crop of 0.1 to 1 of the resized image can be cut"
        )
    if known.get("crop_border_pixels"):
        raise ArtifactError("the model trims a border of its images first, which jepack cannot do")
    mean, std = tuple(known.get("mean", (0.5,) * 3)), tuple(known.get("std", (0.5,) * 3))
    if len(mean) != channels:
        mean, std = (float(np.mean(mean)),) * channels, (float(np.mean(std)),) * channels
    return Preprocessing(
        size=size or int(height),
        channels=channels,
        mean=mean,
        std=std,
        crop_pct=pct,
        interpolation=interpolation,
        crop_mode=mode,
    )
