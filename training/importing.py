"""`jepack import`: wrap an encoder that was trained elsewhere as a bundle.

Its projection is made of the principal components of its embeddings of the user's own images, whitened.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console

from jepack import preprocess
from jepack.bundle import Bundle
from jepack.encoder import Encoder, Projector, ProjectorConfig, embedding_dims
from jepack.errors import ConfigError, DataError, listed
from jepack.images import find_images
from jepack.intensity import Window
from jepack.names import marked, marked_lines, tell
from jepack.preprocess import INTERPOLATIONS, Pixels, Preprocessing
from training import bundling
from training.bundling import Content, Split
from training.data import measure_window
from training.devices import choose_device
from training.monitor import counter
from training.ranges import cautions
from training.splits import split
from training.weights import Source, open_source

NEEDED_IMAGES = 32


def import_encoder(
    source: Annotated[
        str, typer.Argument(help="timm:NAME, hf:OWNER/REPO, a weights file, or a timm folder.")
    ],
    data: Annotated[Path, typer.Option(help="Folder of your images: they set the projection.")],
    out: Annotated[Path, typer.Option(help="Bundle folder to write.")],
    encoder: Annotated[
        str | None, typer.Option(help="timm name of the architecture of a weights file.")
    ] = None,
    size: Annotated[int, typer.Option(help="Side of the crop, px; 0 = the model's own.")] = 0,
    channels: Annotated[int, typer.Option(help="1 or 3.")] = 3,
    window: Annotated[
        str | None, typer.Option(help="Values shown as 0..255: p1,p99 or lo,hi or dicom.")
    ] = None,
    projection_dims: Annotated[int, typer.Option(help="Width of the projection, at most.")] = 64,
    license: Annotated[
        str | None, typer.Option(help="Licence of the weights; default what timm states.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split into fitting and held-out images.")] = 0,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1; default: a GPU if any.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Wrap any timm encoder as a bundle that exports and serves like a trained one.

    The pixels' mean and spread, size and crop are the model's own. Pickled weights are read as data
    only; a file that holds code is refused.

    Examples:
      jepack import timm:convnextv2_nano.fcmae_ft_in22k_in1k --data photos/ --out runs/transfer
      jepack import weights.safetensors --encoder resnet18 --data photos/ --out runs/own --license MIT
    """
    if channels not in (1, 3):
        raise ConfigError(f"--channels must be 1 or 3, found {channels}")
    chosen = choose_device(device)
    found = open_source(source, encoder, channels, size)
    bundle = wrap(
        found, data, out, channels=channels, size=size, projection_dims=projection_dims,
        license=license or found.stated.get("license") or "not stated", seed=seed, device=chosen,
        window=window,
    )  # fmt: skip
    if as_json:
        print(json.dumps({"bundle": str(bundle.folder), "fingerprints": bundle.fingerprints}))
        return
    console = Console()
    if found.left_out:
        names = ", ".join(found.left_out[:4]) + (" ..." if len(found.left_out) > 4 else "")
        console.print(
            f"{len(found.left_out)} tensors of the file are not the backbone's: {marked(names)}"
        )
    console.print(
        f"[bold green]Encoder ready[/] {marked(bundle.folder)}\n"
        f"  next         jepack export {marked(bundle.folder)}",
        highlight=False,
        soft_wrap=True,
    )


def wrap(
    source: Source,
    data: Path,
    out: Path,
    *,
    channels: int,
    size: int,
    projection_dims: int,
    license: str,
    seed: int,
    device: torch.device | None = None,
    window: str | None = None,
) -> Bundle:
    """Fit the projection on most of the images, measure on the rest, write the bundle."""
    files = find_images(data)
    span = measure_window(files, window, channels)
    tell(Console(stderr=True), cautions(files, channels, span))
    files, digest = readable(files, channels, span)
    if len(files) < NEEDED_IMAGES:
        raise DataError(
            f"{data}: {len(files)} readable images; the projection needs {NEEDED_IMAGES} or more"
        )
    look = replace(preprocessing_of(source.stated, channels, size), window=span)
    width = embedding_dims(source.backbone.eval(), channels, look.size)
    unused = Projector(ProjectorConfig(in_features=width, out_features=1, layers=1))
    fitting, held_out = split(len(files), 0.25, seed)

    def read(indices: Any) -> Pixels:
        return np.stack([preprocess.load(files[int(i)].read(), look) for i in indices])

    provenance = {
        "data": {"folder": str(data.absolute()), "digest": digest, "images": len(files)},
        "weights": {"origin": source.origin, "sha256": source.sha256},
        "license": license,
        "commit": bundling.commit(),
        "versions": bundling.versions(),
    }
    content = Content(
        encoder=Encoder(source.backbone, unused),
        preprocessing=look,
        architecture=source.architecture,
        model_args=source.model_args,
        method="imported",
        story=f"A `{source.architecture}` with weights from {source.origin}, not trained further. Its "
        f"projection was fitted on {len(fitting):,} images.\nLicence of the weights: {license}.",
        limits="How well these weights suit a domain is not known before `jepack probe` is run on it.",
        provenance=provenance,
        read=read,
        split=Split(fitting, held_out),
        seed=seed,
        labels=class_ids(files),
        fit_projection=projection_dims,
    )
    with counter("embed") as show:
        return bundling.assemble(out, content, show, device=device or bundling.CPU)


def class_ids(files: list[Any]) -> Any:
    """[N] a number for each label, -1 where an image has none."""
    names = sorted({file.label for file in files if file.label is not None})
    return np.array([-1 if file.label is None else names.index(file.label) for file in files])


def readable(files: list[Any], channels: int, window: Window = None) -> tuple[list[Any], str]:
    """The files that decode, and a SHA-256 over their bytes, in order."""
    digest = hashlib.sha256()
    kept, bad = [], []
    with counter("read") as show:
        for number, file in enumerate(files, start=1):
            try:
                content = file.read()
                preprocess.decode(content, channels, window)
            except DataError as error:
                bad.append((file.name, str(error).removeprefix("image: ")))
            else:
                digest.update(hashlib.sha256(content).digest())
                kept.append(file)
            show(number, len(files))
    if bad and not kept:
        raise DataError(f"none of {len(files)} images can be read:\n{listed(bad)}")
    if bad:
        console = Console(stderr=True)
        console.print(
            f"[yellow]{len(bad)} images skipped:[/]\n{marked_lines(listed(bad))}", soft_wrap=True
        )
    return kept, digest.hexdigest()


def preprocessing_of(stated: dict[str, Any], channels: int, size: int) -> Preprocessing:
    """How the model's authors feed it, at this size; `stated` is timm's pretrained_cfg."""
    mean, std = tuple(stated.get("mean", (0.5,) * 3)), tuple(stated.get("std", (0.5,) * 3))
    if len(mean) != channels:
        mean, std = (float(np.mean(mean)),) * channels, (float(np.mean(std)),) * channels
    interpolation = stated.get("interpolation", "bicubic")
    return Preprocessing(
        size=size or int(stated.get("input_size", (3, 224, 224))[1]),
        channels=channels,
        mean=mean,
        std=std,
        crop_pct=float(stated.get("crop_pct") or 1.0),
        interpolation=interpolation if interpolation in INTERPOLATIONS else "bicubic",
    )
