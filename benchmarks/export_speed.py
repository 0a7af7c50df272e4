"""How fast is each export beside PyTorch eager, at 224 px, on this machine? Random weights, real graphs.

python -m benchmarks.export_speed --threads 1
python -m benchmarks.export_speed --provider cuda         (onnxruntime-gpu; tensorrt likewise)
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from export.formats import FORMATS, Source
from export.measure import torch_engine
from export.providers import bound_engine
from export.timing import processor, time_engines
from jepack.decoding import Preprocessing
from jepack.encoder import EncoderGraph, build_encoder
from jepack.files import write_json
from jepack.measures import Calibration

OUT = Path(__file__).parent / "results" / "export_speed.json"
ENCODERS = ("resnet18", "vit_tiny_patch16_224", "convnext_atto")
SIZE = 224


def measure(name: str, provider: str, formats: list[str]) -> dict[str, dict[str, float]]:
    """Milliseconds per batch of 1, 8 and 32: {"eager" or format: {"1": ms, ...}}."""
    look = Preprocessing(size=SIZE, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    torch.manual_seed(0)
    encoder = build_encoder(name, channels=3, size=SIZE).eval()
    nothing = Calibration(np.zeros(64), np.eye(64))
    graph = EncoderGraph(encoder, look, nothing).eval()
    images = np.random.default_rng(0).integers(0, 256, (32, SIZE, SIZE, 3), dtype=np.uint8)
    with TemporaryDirectory(prefix="jepack-speed-") as work:
        source = Source(graph, images[:16], Path(work))
        engines: dict[str, Any] = {}
        if provider == "cpu":
            engines["eager"] = torch_engine(graph)
        else:
            engines["eager"] = on_cuda(graph)
        for kind in (FORMATS[key] for key in formats):
            path = Path(work) / kind.file
            path.parent.mkdir(exist_ok=True)
            kind.write(source, path)
            if provider == "cpu":
                engines[kind.name] = kind.engine(path)
            elif path.suffix == ".onnx":
                engines[kind.name] = bound_engine(path, provider, Path(work))
        return time_engines(engines, images)


def on_cuda(graph: EncoderGraph) -> Any:
    """PyTorch eager on the GPU, copies to and from it included, as for the others."""
    module = copy.deepcopy(graph).cuda()  # the graph itself is exported, on the CPU

    def run(images: Any) -> tuple[Any, Any]:
        with torch.inference_mode():
            embedding, projection = module(torch.from_numpy(images).cuda())
        return embedding.cpu().numpy(), projection.cpu().numpy()

    return run


def show(name: str, found: dict[str, dict[str, float]], console: Console) -> None:
    table = Table(title=f"{name}, {SIZE} px: milliseconds (times as fast as eager)", box=None)
    for heading in ("engine", *(f"batch {batch}" for batch in found["eager"])):
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    for engine, spent in found.items():
        cells = [f"{ms:.1f} ({found['eager'][batch] / ms:.2f})" for batch, ms in spent.items()]
        table.add_row(engine, *cells)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--encoders", default=",".join(ENCODERS))
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--provider", default="cpu", help="cpu, cuda or tensorrt")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console, results = Console(), {}
    for name in options.encoders.split(","):
        results[name] = measure(name, options.provider, options.formats.split(","))
        show(name, results[name], console)
        write_json(
            options.out,
            {
                "processor": processor(), "threads": options.threads, "provider": options.provider,
                "size_px": SIZE, "milliseconds": results,
            },
        )  # fmt: skip
    console.print(f"written to {options.out}")


if __name__ == "__main__":
    main()
