"""From a trained encoder to a bundle: calibration, golden images, isotropy, card."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save_file

from jepack import __version__, bundle, stages
from jepack.bundle import Bundle, card
from jepack.decoding import Pixels, Preprocessing
from jepack.encoder import Encoder, EncoderGraph, Projector, ProjectorConfig, encoder_files
from jepack.files import write_bytes, write_json
from jepack.measures import isotropy, retrieval
from jepack.names import kept
from jepack.sources import ImageFile, Source, class_ids
from training.data import Split, column
from training.run import Prepared
from training.watch import features

CALIBRATION_IMAGES = 4096
GOLDEN_IMAGES = 8
CPU = torch.device("cpu")
HELD_OUT_NAMES = 2048
SILENT_SHARE = 1e-3  # of the mean variance, the floor of isotropy.fit_calibration


@dataclass(frozen=True, kw_only=True)
class Content:
    """What goes into a bundle besides what `assemble` measures."""

    encoder: Encoder
    preprocessing: Preprocessing
    architecture: str  # timm name
    model_args: dict[str, Any]  # timm arguments that belong to the architecture
    method: str
    story: str  # how the weights came to be and under what licence, for the card
    limits: str  # what is not known of them, for the card
    provenance: dict[str, Any]
    read: Callable[[Any], Pixels]  # image numbers -> [N, S, S, C], decoded as serving decodes them
    split: Split
    seed: int = 0
    labels: Any = (
        None  # [N] class of each image, -1 unknown; what search should use is measured on them
    )
    groups: Any = None  # [N] names: images of one group are not looked for by each other
    fit_projection: int = 0  # dims of a projection head fitted on the images; 0 keeps the encoder's
    recipe: dict[str, Any] | None = None
    curves: Path | None = None


def write(
    folder: Path,
    encoder: Encoder,
    prepared: Prepared,
    provenance: dict[str, Any],
    curves: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Bundle:
    """The bundle of a training run, its images embedded on the run's device."""
    config, images, preprocessing = prepared.config, prepared.images, prepared.preprocessing

    def read(indices: Any) -> Pixels:
        return np.stack([images.original(int(i), indices, preprocessing) for i in indices])

    data = provenance["data"]
    content = Content(
        encoder=encoder,
        preprocessing=preprocessing,
        architecture=config.encoder,
        model_args=config.encoder_options,
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
    return assemble(folder, content, on_progress, device=prepared.here.device)


def assemble(
    folder: Path,
    content: Content,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    device: torch.device = CPU,
) -> Bundle:
    """Calibrate on training images, measure on held-out ones, write the bundle.

    Thousands of images are embedded on `device`; the golden ones on the CPU, as everyone can.
    """
    preprocessing, split = content.preprocessing, content.split
    encoder = content.encoder.to(device).float().eval()
    fitting = pick(split.train, CALIBRATION_IMAGES, content.seed)
    raw_fit = read_features(encoder, content, fitting, on_progress)
    if content.fit_projection:
        encoder = Encoder(
            encoder.backbone, principal_projector(raw_fit["embedding"], content.fit_projection)
        ).eval()
        with torch.no_grad():
            raw_fit["projection"] = encoder.projector(
                torch.from_numpy(raw_fit["embedding"])
            ).numpy()
        encoder.to(device)
    calibration = isotropy.fit_calibration(raw_fit["projection"])
    raw = read_features(encoder, content, split.held_out)
    calibrated = calibration.apply(raw["projection"])
    measured = {
        "images": len(split.held_out),
        "held_out": True,
        "embedding": isotropy.report(raw["embedding"]).to_json(),
        "raw_projection": isotropy.report(raw["projection"]).to_json(),
        "projection": isotropy.report(calibrated).to_json(),
    }
    searched = judge_retrieval(content, {"embedding": raw["embedding"], "projection": calibrated})
    encoder.cpu()
    golden = golden_tensors(encoder, calibration, content)
    license = content.provenance.get("license", "other")
    config_json, model, head = encoder_files(
        encoder,
        calibration,
        preprocessing,
        architecture=content.architecture,
        method=content.method,
        license=license,
        model_args=content.model_args,
    )
    manifest = {
        "name": kept(folder.parent.name if folder.name == "bundle" else folder.name),
        "preprocessing": preprocessing.to_json(),
        "dimensions": {name: int(golden[name].shape[1]) for name in bundle.OUTPUTS},
        "default_output": searched["output"],
        "retrieval": searched,
        "provenance": content.provenance,
        "card": {
            "story": content.story,
            "limits": content.limits,
            "projection": "principal components of the embedding" if content.fit_projection else "",
        },
    }
    with bundle.writing(folder, manifest) as stage:
        write_json(stage / "config.json", config_json)
        save_file(model, stage / "model.safetensors")
        save_file(head, stage / "projector.safetensors")
        save_file(golden, stage / "golden.safetensors")
        write_json(stage / "isotropy.json", measured)
        if content.recipe is not None:
            write_json(stage / "recipe.json", content.recipe)
        if content.curves is not None and content.curves.is_file():
            write_bytes(stage / "curves.png", content.curves.read_bytes())
        bundle.write_loader_files(stage, manifest)  # the card shows how each loader opens it
        card.refresh(stage, manifest)
    return bundle.load(folder)


def judge_retrieval(content: Content, outputs: dict[str, Any]) -> dict[str, Any]:
    """What search should use, measured on the held-out images where their labels suffice."""
    held_out, found = content.split.held_out, {}
    if content.labels is not None:
        groups = None if content.groups is None else np.asarray(content.groups)[held_out]
        found = retrieval.choose(outputs, np.asarray(content.labels)[held_out], groups=groups)
    return found or {"output": retrieval.DEFAULT_OUTPUT, "basis": "benchmark"}


def pick(indices: Any, count: int, seed: int) -> Any:
    if len(indices) <= count:
        return indices
    return np.sort(np.random.default_rng([seed, 5]).choice(indices, count, replace=False))


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


def read_features(
    encoder: Encoder,
    content: Content,
    indices: Any,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Embeddings and raw projections of the original images."""
    parts = []
    for start in range(0, len(indices), 64):
        block = indices[start : start + 64]
        parts.append(features(encoder, content.read(block), content.preprocessing))
        if on_progress:
            on_progress(start + len(block), len(indices))
    embedding, projection = (np.concatenate(part) for part in zip(*parts, strict=True))
    return {"embedding": embedding, "projection": projection}


def golden_tensors(
    encoder: Encoder, calibration: isotropy.Calibration, content: Content
) -> dict[str, torch.Tensor]:
    held_out = content.split.held_out
    chosen = held_out[:: max(1, len(held_out) // GOLDEN_IMAGES)][:GOLDEN_IMAGES]
    pixels = torch.from_numpy(content.read(chosen))
    graph = EncoderGraph(encoder, content.preprocessing, calibration).eval()
    with torch.no_grad():
        embedding, projection = graph(pixels)
    golden = {"images": pixels, "embedding": embedding, "projection": projection}
    return {name: value.contiguous() for name, value in golden.items()}


def provenance(prepared: Prepared, record: dict[str, Any]) -> dict[str, Any]:
    """Where an encoder came from: code, data, versions."""
    config, images, held_out = prepared.config, prepared.images, prepared.split.held_out
    return {
        "data": data_of(prepared.source, images.files, images.digest, held_out, config.seed),
        "license": record["license"],
        "commit": commit(),
        "versions": versions(),
        "recipe": config.to_json(),
        "history": record["history"],
    }


def data_of(
    source: Source, files: Sequence[ImageFile], digest: str, held_out: Any, seed: int
) -> dict[str, Any]:
    """What the manifest says of the data; jepack.heldout reads it."""
    return {
        "folder": source.text if source.away else str(source.base.absolute()),
        **({"source": source.below} if source.below and not source.away else {}),
        "digest": digest,
        "images": len(files),
        "held_out": held_out_names(files, source.base, held_out, seed),
    }


def held_out_names(files: Sequence[ImageFile], base: Path, held_out: Any, seed: int) -> list[str]:
    """Names of the images kept out, a draw of them where there are very many: `jepack export` judges by
    these alone, so they must not be those of the first classes."""
    return [files[int(i)].name_below(base) for i in pick(held_out, HELD_OUT_NAMES, seed)]


def versions() -> dict[str, str]:
    return {
        "jepack": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
    }


def commit() -> str | None:
    """The checkout's commit, with `+` when files differ from it; None outside a checkout."""
    here = stages.checkout()
    if here is None:  # a repository around the installed package is somebody else's
        return None
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if dirty else "")
