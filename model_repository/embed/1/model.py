"""Triton Python model for CPU serving: image bytes -> embedding and projection.

Used through configs/cpu.pbtxt. Of two models that hand on batches, each left cores idle while it waited for
the other's (docs/serving.md, "Speed"); production has a GPU to keep busy, and is an ensemble of two.
"""

from __future__ import annotations

import importlib.util
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when ONNX Runtime is imported

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

OUTPUTS = {"embedding": "pooler_output", "projection": "projection"}  # ours: the graph's
PIECE = (
    4  # images at most and two at least: larger ones leave the caches, single ones pay for each run
)
LARGE = 256 * 2**20  # bytes of a graph that is not held twice
REPOSITORY = Path(__file__).resolve().parents[2]


class TritonPythonModel:
    """Batches go in pieces to threads that decode and encode side by side: that takes less of the
    processor than threads that share every operator. Few images do share them, to be there sooner."""

    def initialize(self, args: dict[str, Any]) -> None:
        told = {
            key: value["string_value"]
            for key, value in json.loads(args["model_config"])["parameters"].items()
        }
        decoding = beside(told["decoder"])
        self.decoder, self.refused = decoding.Decoder(), decoding.refused
        self.threads = int(told["threads"])
        self.pool = ThreadPoolExecutor(self.threads)
        graph = REPOSITORY / told["encoder"] / "1" / "model.onnx"
        self.together = session(graph, self.threads)
        self.alone = None
        if self.threads == 1:
            self.alone = self.together
        elif graph.stat().st_size <= LARGE:
            self.alone = session(graph, 1)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Runs the requests that Triton gathered as one batch and hands each its rows, or why it has none."""
        images = [
            pb_utils.get_input_tensor_by_name(request, "image").as_numpy().reshape(-1)
            for request in requests
        ]
        ends = np.cumsum([len(part) for part in images])
        found = self.run([bytes(data) for part in images for data in part])
        return [
            self.answer(found[end - len(part) : end])
            for part, end in zip(images, ends, strict=True)
        ]

    def run(self, images: list[bytes]) -> list[Any]:
        """For each image its rows, by output, or the reason why it has none."""
        if self.alone is None or len(images) < 2 * self.threads:
            return self.encode(self.together, list(self.pool.map(self.decoder.crop, images)))
        size = min(PIECE, len(images) // self.threads)
        pieces = [images[at : at + size] for at in range(0, len(images), size)]
        return [one for piece in self.pool.map(self.piece, pieces) for one in piece]

    def piece(self, images: list[bytes]) -> list[Any]:
        return self.encode(self.alone, [self.decoder.crop(data) for data in images])

    def encode(self, encoder: Any, crops: list[Any]) -> list[Any]:
        good = [crop for crop in crops if not isinstance(crop, str)]
        if not good:
            return crops
        rows = iter(
            zip(*encoder.run(list(OUTPUTS.values()), {"pixel_values": np.stack(good)}), strict=True)
        )
        return [crop if isinstance(crop, str) else next(rows) for crop in crops]

    def answer(self, found: list[Any]) -> Any:
        """Of one request: the rows of its images, or the reason of the first that has none."""
        for number, one in enumerate(found):
            if isinstance(one, str):
                return self.refused(number, len(found), one)
        outputs = zip(OUTPUTS, zip(*found, strict=True), strict=True)
        tensors = [pb_utils.Tensor(name, np.stack(rows)) for name, rows in outputs]
        return pb_utils.InferenceResponse(tensors)


def beside(model: str) -> Any:
    """The code of another model of this repository."""
    path = REPOSITORY / model / "1" / "model.py"
    spec = importlib.util.spec_from_file_location("decoder", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def session(path: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
