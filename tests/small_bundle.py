"""Pictures and bundles that tests make for themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from jepack.bundle import Bundle


def write_digits(folder: Path, count: int = 60) -> Path:
    """scikit-learn's handwritten digits as PNGs in class folders, 32 px, grey."""
    digits = load_digits()
    for number in range(count):
        pixels = (digits.images[number] / 16 * 255).astype(np.uint8)
        target = folder / f"digit-{digits.target[number]}"
        target.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)
        image.save(target / f"{number:04d}.png")
    return folder


def write_small_bundle(
    folder: Path,
    images: Path,
    *,
    architecture: str = "resnet10t",
    channels: int = 1,
    size: int = 64,
    surgery: Callable[[Any], None] = lambda encoder: None,
    pixels: Any = None,
) -> Bundle:
    """A bundle of a small real encoder with random weights; `surgery` may change the weights first.

    `pixels` (uint8 [N, H, W, C]) takes the place of the images in the folder.
    """
    import torch
    from safetensors.torch import save_file

    from jepack import bundle as bundles
    from jepack import encoder as encoders
    from jepack.decoding import preprocess
    from jepack.files import write_json
    from jepack.measures import isotropy
    from jepack.sources import find_images

    settings = preprocess.Preprocessing(
        size=size, channels=channels, mean=(0.5,) * channels, std=(0.25,) * channels
    )
    if pixels is None:
        pixels = np.stack([preprocess.load(image.path, settings) for image in find_images(images)])
    pixels = torch.from_numpy(pixels)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        encoder = encoders.build_encoder(architecture, channels=channels, size=size)
        settle_batch_norm(encoder, (pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25)
        surgery(encoder.eval())
        unchanged = isotropy.Calibration(np.zeros(64), np.eye(64))
        raw = encoders.EncoderGraph(encoder, settings, unchanged).eval()(pixels)[1]
        calibration = isotropy.fit_calibration(raw.numpy())
        graph = encoders.EncoderGraph(encoder, settings, calibration).eval()
        embedding, projection = (output.contiguous() for output in graph(pixels[:8]))
    config, backbone, head = encoders.encoder_files(
        encoder, calibration, settings, architecture=architecture, method="lejepa", license="other"
    )
    manifest = {
        "name": f"small-{architecture}",
        "preprocessing": settings.to_json(),
        "dimensions": {"embedding": embedding.shape[1], "projection": projection.shape[1]},
        "default_output": "embedding",
        "provenance": {"data": {"folder": str(images)}},
    }
    golden = {"images": pixels[:8].contiguous(), "embedding": embedding, "projection": projection}
    with bundles.writing(folder, manifest) as stage:
        write_json(stage / "config.json", config)
        save_file(backbone, stage / "model.safetensors")
        save_file(head, stage / "projector.safetensors")
        save_file(golden, stage / "golden.safetensors")
        write_json(stage / "isotropy.json", {})
    return bundles.load(folder)


def settle_batch_norm(encoder: Any, images: Any) -> None:
    """Give BatchNorm the statistics of these images: without them a random network says next to nothing."""
    import torch

    norms = [m for m in encoder.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # averages over the passes
    encoder.train()(images)
    for norm in norms:
        norm.momentum = 0.1


VIT: dict[str, tuple[int, ...]] = {  # vit_tiny_patch16_224 with the arguments TINY
    "cls_token": (1, 1, 4), "pos_embed": (1, 2, 4),
    "patch_embed.proj.weight": (4, 1, 8, 8), "patch_embed.proj.bias": (4,),
    "blocks.0.norm1.weight": (4,), "blocks.0.norm1.bias": (4,),
    "blocks.0.attn.qkv.weight": (12, 4), "blocks.0.attn.qkv.bias": (12,),
    "blocks.0.attn.proj.weight": (4, 4), "blocks.0.attn.proj.bias": (4,),
    "blocks.0.norm2.weight": (4,), "blocks.0.norm2.bias": (4,),
    "blocks.0.mlp.fc1.weight": (16, 4), "blocks.0.mlp.fc1.bias": (16,),
    "blocks.0.mlp.fc2.weight": (4, 16), "blocks.0.mlp.fc2.bias": (4,),
    "norm.weight": (4,), "norm.bias": (4,),
}  # fmt: skip
TINY: dict[str, Any] = {"depth": 1, "embed_dim": 4, "num_heads": 1, "patch_size": 8, "img_size": 8}


def write_tiny_bundle(folder: Path) -> Path:
    """A sound bundle of a few kilobytes, of a network without training, for what only reads files."""
    from safetensors.numpy import save_file

    from jepack import bundle as bundles

    folder.mkdir(parents=True)
    look = {"size": 8, "channels": 1, "mean": [0.5], "std": [0.5], "crop_pct": 1.0,
            "interpolation": "bicubic", "window": None}  # fmt: skip
    config = {
        "architecture": "vit_tiny_patch16_224", "num_classes": 0, "num_features": 4,
        "global_pool": "token", "model_args": {"in_chans": 1, **TINY},
        "pretrained_cfg": {"input_size": [1, 8, 8], "license": "mit"},
        "jepack": {
            "projector": {"in_features": 4, "hidden": 8, "out_features": 2, "layers": 1},
            "method": "lejepa",
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "isotropy.json").write_text("{}")
    save_file(
        {name: np.ones(s, np.float32) for name, s in VIT.items()}, folder / "model.safetensors"
    )
    save_file(
        {
            "0.weight": np.ones((2, 4), np.float32), "0.bias": np.zeros(2, np.float32),
            "calibration.mean": np.zeros(2, np.float32),
            "calibration.matrix": np.eye(2, dtype=np.float32),
        }, folder / "projector.safetensors",
    )  # fmt: skip
    golden = {
        "images": np.zeros((3, 8, 8, 1), np.uint8),
        "embedding": np.zeros((3, 4), np.float32),
        "projection": np.zeros((3, 2), np.float32),
    }
    save_file(golden, folder / "golden.safetensors")
    manifest = {
        "name": "tiny", "preprocessing": look, "dimensions": {"embedding": 4, "projection": 2},
        "default_output": "embedding", "provenance": {"data": {"folder": "x"}},
    }  # fmt: skip
    bundles.write_loader_files(folder, manifest)
    bundles.write_manifest(folder, manifest)
    assert bundles.verify(folder) == []
    return folder
