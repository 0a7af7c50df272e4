"""What should search use: `embedding` or `projection`, how many dimensions, which codes? Measured.

For each bundle the held-out images that training recorded ask among each other for images of their
class; where training kept groups apart (map blocks), an image's own group is not asked. Dimensions are
cut in two ways: the first coordinates, and principal components fitted on training images.

    jepack train runs/data/solar --recipe quickstart --preset industrial --out runs/solar
    jepack train runs/data/earth --recipe quickstart --preset satellite --group-by block --out runs/earth
    python -m benchmarks.retrieval runs/solar/bundle runs/earth/bundle
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table

from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.decoding import preprocess
from jepack.encoder import EncoderGraph, load_encoder
from jepack.errors import DataError
from jepack.files import write_json
from jepack.measures import retrieval
from jepack.sources import ImageFile, find_images

OUT = Path(__file__).parent / "results" / "retrieval.json"
OUTPUTS = ("embedding", "raw projection", "projection")
FRACTIONS = (1, 2, 4)
FITTING = 1024  # training images that centres and principal components are fitted on
BATCH = 64
Rows = npt.NDArray[np.float32]


def outputs_of(bundle: Bundle, files: list[ImageFile]) -> dict[str, Rows]:
    """Every output of these images, [N, D] each, as PyTorch gives it."""
    encoder, calibration = load_encoder(bundle)
    graph = EncoderGraph(encoder, bundle.preprocessing, calibration).eval()
    parts: dict[str, list[Rows]] = {name: [] for name in OUTPUTS}
    for start in range(0, len(files), BATCH):
        pixels = np.stack(
            [preprocess.load(f.read(), bundle.preprocessing) for f in files[start : start + BATCH]]
        )
        with torch.inference_mode():
            embedding, projection = graph(torch.from_numpy(pixels))
            raw = encoder.projector(embedding)
        for name, rows in zip(OUTPUTS, (embedding, raw, projection), strict=True):
            parts[name].append(rows.numpy())
    return {name: np.concatenate(rows) for name, rows in parts.items()}


def files_of(bundle: Bundle) -> tuple[list[ImageFile], list[ImageFile]]:
    """(held-out images with labels, some training images)."""
    data = bundle.manifest["provenance"]["data"]
    folder = Path(data["folder"])
    if not folder.is_dir():
        raise DataError(f"{bundle.folder}: its images are no longer in {folder}")
    held = {folder / name for name in data["held_out"]}
    every = find_images(folder)
    training = [file for file in every if file.path not in held]
    order = np.random.default_rng(0).permutation(len(training))[:FITTING]
    return [file for file in every if file.path in held and file.label], [
        training[index] for index in sorted(order)
    ]


def cut(x_ND: Rows, fit_ND: Rows, dims: int, how: str) -> tuple[Rows, Rows]:
    """(rows, centre) in `dims` dimensions."""
    if how == "first coordinates":
        return x_ND[:, :dims], fit_ND[:, :dims].mean(axis=0)
    mean = fit_ND.mean(axis=0)
    directions = np.linalg.svd(fit_ND - mean, full_matrices=False)[2][:dims].T
    # Rotated about the origin, not the mean: at full width the cosines are those of the vectors.
    return x_ND @ directions, mean @ directions


def measure(bundle: Bundle) -> dict[str, Any]:
    held, training = files_of(bundle)
    group_by = (bundle.manifest["provenance"].get("recipe") or {}).get("group_by")
    names = sorted({str(file.label) for file in held})
    labels = np.array([names.index(str(file.label)) for file in held])
    groups = np.array([file.columns[group_by] for file in held]) if group_by else None
    found, fitted = outputs_of(bundle, held), outputs_of(bundle, training)
    rows = []
    for output in OUTPUTS:
        width = found[output].shape[1]
        for fraction in FRACTIONS:
            for how in ("first coordinates", "principal components"):
                x, centre = cut(found[output], fitted[output], width // fraction, how)
                for codes in retrieval.CODES:
                    score = retrieval.measure(
                        x, labels, groups=groups, codes=codes, centre_D=centre
                    )
                    rows.append({
                        "output": output, "dimensions": width // fraction, "cut": how, "codes": codes,
                        "bytes": bytes_of(width // fraction, codes), **score.to_json(),
                    })  # fmt: skip
    both = {name: found[name] for name in ("embedding", "projection")}
    return {
        "bundle": bundle.name,
        "encoder": bundle.config()["architecture"],
        "data": Path(bundle.manifest["provenance"]["data"]["folder"]).name,
        "steps": bundle.manifest["provenance"].get("steps"),
        "images": len(held),
        "groups": group_by,
        "choice": retrieval.choose(both, labels, groups=groups),
        "rows": rows,
    }


def bytes_of(dims: int, codes: str) -> int:
    """Of one vector in an index."""
    return {"float32": 4 * dims, "int8": dims, "binary": -(-dims // 8)}[codes]


def show(result: dict[str, Any], console: Console) -> None:
    choice = result["choice"]
    title = (
        f"{result['data']}, {result['encoder']}, {result['steps']} steps: {choice['queries']} queries, "
        f"{choice['classes']} classes, chance {choice['chance']:.3f}"
    )
    table = Table(title=title, title_justify="left", box=None)
    for heading in ("output", "dims", "cut", "codes", "bytes", "R@1", "R@10", "P@10", "mAP"):
        table.add_column(heading, justify="right" if heading not in ("output", "cut") else "left")
    for row in result["rows"]:
        scores = ("recall_at_1", "recall_at_10", "precision_at_10", "mean_average_precision")
        table.add_row(
            row["output"], str(row["dimensions"]), row["cut"], row["codes"], str(row["bytes"]),
            *(f"{row[name]:.3f}" for name in scores),
        )  # fmt: skip
    console.print(table)
    console.print(
        f"default: {choice['output']} (gain of the projection, 95 %: "
        f"{choice['gain_over_embedding']['projection']})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    console, results = Console(), []
    for folder in options.bundles:
        result = measure(bundles.load(folder))
        show(result, console)
        results.append(result)
    write_json(options.out, {"bundles": results})
    console.print(f"written to {options.out}")


if __name__ == "__main__":
    main()
