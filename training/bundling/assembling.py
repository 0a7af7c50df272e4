"""What is measured of an encoder for its bundle, and the bundle written.

N images, E embedding dims, D projection dims.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from jepack import bundle
from jepack.bundle import Bundle, card
from jepack.decoding import Pixels, Preprocessing
from jepack.encoder import Encoder, EncoderGraph, encoder_files
from jepack.faults import FAULT_IMAGES, faults
from jepack.files import write_bytes, write_json
from jepack.measures import MINIMUM, Calibration, isotropy, null_where_possible, retrieval
from jepack.names import kept
from training.bundling.origin import pick
from training.bundling.principal import principal_projector
from training.data import Split
from training.watch import features

CALIBRATION_IMAGES = 4096
GOLDEN_IMAGES = 8
AT_ONCE = 64  # images in memory
CPU = torch.device("cpu")


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
    name: str = ""  # the folder's, else
    recipe: dict[str, Any] | None = None
    curves: Path | None = None


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
    encoder = content.encoder.to(device).float().eval()
    encoder, calibration = calibrated(encoder, content, on_progress, device)
    raw = read_features(encoder, content, content.split.held_out)
    projection = calibration.apply(raw["projection"])
    measured = {
        "images": len(content.split.held_out),
        "held_out": True,
        "embedding": isotropy.report(raw["embedding"]).to_json(),
        "raw_projection": isotropy.report(raw["projection"]).to_json(),
        "projection": isotropy.report(projection).to_json(),
    }
    searched = judge_retrieval(content, {"embedding": raw["embedding"], "projection": projection})
    null = None
    if len(projection) >= MINIMUM:
        faulted = with_faults(encoder, calibration, content)
        null = null_where_possible(projection, faulted=faulted, seed=content.seed)
    encoder.cpu()
    golden = golden_tensors(encoder, calibration, content)
    manifest = manifest_of(folder, content, golden, searched)
    with bundle.writing(folder, manifest) as stage:
        save_file(golden, stage / "golden.safetensors")
        write_json(stage / "isotropy.json", measured)
        write_encoder(stage, encoder, calibration, content)
        if null is not None:
            bundle.write_null(stage, null)
        if content.recipe is not None:
            write_json(stage / "recipe.json", content.recipe)
        if content.curves is not None and content.curves.is_file():
            write_bytes(stage / "curves.png", content.curves.read_bytes())
        bundle.write_loader_files(stage, manifest)  # the card shows how each loader opens it
        card.refresh(stage, manifest)
    return bundle.load(folder)


def calibrated(
    encoder: Encoder,
    content: Content,
    on_progress: Callable[[int, int], None] | None,
    device: torch.device,
) -> tuple[Encoder, Calibration]:
    """The encoder, with a projector where it is to be fitted, and what calibrates its projections."""
    fitting = pick(content.split.train, CALIBRATION_IMAGES, content.seed)
    raw = read_features(encoder, content, fitting, on_progress)
    if content.fit_projection:
        projector = principal_projector(raw["embedding"], content.fit_projection)
        encoder = Encoder(encoder.backbone, projector).eval()
        with torch.no_grad():
            raw["projection"] = projector(torch.from_numpy(raw["embedding"])).numpy()
        encoder.to(device)
    return encoder, isotropy.fit_calibration(raw["projection"])


def manifest_of(
    folder: Path, content: Content, golden: dict[str, torch.Tensor], searched: dict[str, Any]
) -> dict[str, Any]:
    return {
        "name": content.name
        or kept(folder.parent.name if folder.name == "bundle" else folder.name),
        "preprocessing": content.preprocessing.to_json(),
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


def write_encoder(
    stage: Path, encoder: Encoder, calibration: Calibration, content: Content
) -> None:
    """config.json and the weights."""
    config, model, head = encoder_files(
        encoder,
        calibration,
        content.preprocessing,
        architecture=content.architecture,
        method=content.method,
        license=content.provenance.get("license", "other"),
        model_args=content.model_args,
    )
    write_json(stage / "config.json", config)
    save_file(model, stage / "model.safetensors")
    save_file(head, stage / "projector.safetensors")


def judge_retrieval(content: Content, outputs: dict[str, Any]) -> dict[str, Any]:
    """What search should use, measured on the held-out images where their labels suffice."""
    held_out, chosen = content.split.held_out, {}
    if content.labels is not None:
        groups = None if content.groups is None else np.asarray(content.groups)[held_out]
        chosen = retrieval.choose(outputs, np.asarray(content.labels)[held_out], groups=groups)
    return chosen or {"output": retrieval.DEFAULT_OUTPUT, "basis": "benchmark"}


def read_features(
    encoder: Encoder,
    content: Content,
    indices: Any,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Embeddings and raw projections of the original images."""
    chunks = []
    for start in range(0, len(indices), AT_ONCE):
        block = indices[start : start + AT_ONCE]
        chunks.append(features(encoder, content.read(block), content.preprocessing))
        if on_progress:
            on_progress(start + len(block), len(indices))
    embedding, projection = (np.concatenate(part) for part in zip(*chunks, strict=True))
    return {"embedding": embedding, "projection": projection}


def with_faults(
    encoder: Encoder, calibration: isotropy.Calibration, content: Content
) -> dict[str, Any]:
    """Projections of the first held-out images with each fault that a null may know."""
    indices = content.split.held_out[:FAULT_IMAGES]
    chunks: dict[str, list[Any]] = {}
    for start in range(0, len(indices), AT_ONCE):
        crops = content.read(indices[start : start + AT_ONCE])
        for name, change in faults(content.preprocessing.channels).items():
            raw = features(encoder, change(crops), content.preprocessing)[1]
            chunks.setdefault(name, []).append(calibration.apply(raw))
    return {name: np.concatenate(rows) for name, rows in chunks.items()}


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
