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

from jepack.bundle import PRETRAINED_CFG, Bundle, refuse_other_folder, table_problems
from jepack.decoding import INTERPOLATIONS, Pixels, Preprocessing, Window, preprocess
from jepack.encoder import Encoder, Projector, ProjectorConfig, embedding_dims
from jepack.errors import ArtifactError, DataError, listed
from jepack.files import check_writable
from jepack.names import marked, marked_lines, tell
from jepack.sources import ImageFile, Source, class_ids, find_images
from jepack.terminal import SEED, counter, options
from training import bundling
from training.bundling import Content
from training.commands.weights import Weights, open_source
from training.data import Split, cautions, column, measure_window, training_split
from training.parallel import choose_device

NEEDED_IMAGES = 32
HELD_OUT_SHARE = 0.25
FEW_HELD_OUT = 64  # below that what is measured on them is rough


def crop_side(value: int) -> int:
    if value and value < 8:
        raise typer.BadParameter(f"must be 8 px or more, or 0, found {value}")
    return value


def grey_or_colour(value: int) -> int:
    if value not in (1, 3):
        raise typer.BadParameter(f"must be 1 or 3, found {value}")
    return value


def import_encoder(
    source: Annotated[
        str, typer.Argument(help="timm:NAME, hf:OWNER/REPO, a weights file, or a timm folder.")
    ],
    data: Annotated[str, typer.Option(help="Folder of your images: they set the projection.")],
    out: Annotated[
        Path, typer.Option(help="Bundle folder to write.", callback=options.folder_to_write)
    ],
    encoder: Annotated[
        str | None, typer.Option(help="timm name of the architecture of a weights file.")
    ] = None,
    size: Annotated[
        int,
        typer.Option(
            help="Side of the crop, px, 8 or more; 0 = the model's own.",
            callback=crop_side,
            max=8192,
        ),
    ] = 0,
    channels: Annotated[int, typer.Option(help="1 or 3.", callback=grey_or_colour)] = 3,
    window: Annotated[
        str | None, typer.Option(help="Values shown as 0..255: p1,p99 or lo,hi or dicom.")
    ] = None,
    projection_dims: Annotated[
        int, typer.Option(help="Width of the projection, at most.", min=1, max=65_536)
    ] = 64,
    license: Annotated[
        str | None, typer.Option(help="Licence of the weights; default what timm states.")
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(help="Manifest column, such as patient, whose groups are not parted."),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(help="Of the split into fitting and held-out images.", min=0, max=SEED),
    ] = 0,
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
    refuse_other_folder(out)
    check_writable(out, replaced=True)
    chosen = choose_device(device)
    weights = open_source(source, encoder, channels, size)
    bundle = wrap(
        weights, Source.of(data), out, channels=channels, size=size, projection_dims=projection_dims,
        license=license or weights.stated.get("license") or "not stated", seed=seed, device=chosen,
        window=window, group_by=group_by,
    )  # fmt: skip
    if as_json:
        print(json.dumps({"bundle": str(bundle.folder), "fingerprints": bundle.fingerprints}))
        return
    console = Console()
    if weights.left_out:
        names = ", ".join(weights.left_out[:4]) + (" ..." if len(weights.left_out) > 4 else "")
        console.print(
            f"{len(weights.left_out)} tensors of the file are not the backbone's: {marked(names)}"
        )
    held_out = len(bundle.manifest["provenance"]["data"]["held_out"])
    if held_out < FEW_HELD_OUT:
        console.print(
            f"[yellow]note:[/] only {held_out} images are held out to judge it: its figures are rough. "
            f"{int(FEW_HELD_OUT / HELD_OUT_SHARE)} images in all, or more, do better",
            highlight=False,
            soft_wrap=True,
        )
    console.print(
        f"[bold green]Encoder ready[/] {marked(bundle.folder)}\n"
        f"  next         jepack export {marked(bundle.folder)}",
        highlight=False,
        soft_wrap=True,
    )


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
) -> Bundle:
    """Fit the projection on most of the images, measure on the rest, write the bundle."""
    files, contents, span = images_for(data, window, channels)
    digest = hashlib.sha256(b"".join(bytes.fromhex(content) for content in contents)).hexdigest()
    preprocessing = replace(preprocessing_of(weights.stated, channels, size), window=span)
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


def readable(
    files: list[ImageFile], channels: int, window: Window = None
) -> tuple[list[ImageFile], list[str]]:
    """The files that decode, and the SHA-256 of each one's bytes."""
    kept, contents, bad = [], [], []
    with counter("read") as show:
        for number, file in enumerate(files, start=1):
            try:
                content = file.read()
                preprocess.decode(content, channels, window)
            except DataError as error:
                reason = str(error).removeprefix("image: ").removeprefix(f"{file.path}: ")
                bad.append((file.name, reason.removeprefix(f"{file.name}: ")))
            else:
                contents.append(hashlib.sha256(content).hexdigest())
                kept.append(file)
            show(number, len(files))
    if bad and not kept:
        raise DataError(f"none of {len(files)} images can be read:\n{listed(bad)}")
    if bad:
        console = Console(stderr=True)
        console.print(
            f"[yellow]{len(bad)} images skipped:[/]\n{marked_lines(listed(bad))}", soft_wrap=True
        )
    return kept, contents


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
