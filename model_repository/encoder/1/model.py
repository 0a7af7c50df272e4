"""Triton Python model for CPU serving: model.onnx beside this file, run by ONNX Runtime.

Used through configs/cpu.pbtxt; the production config runs the same file in Triton's own backend.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when ONNX Runtime is imported

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

OUTPUTS = ["pooler_output", "projection"]


INPUT = "pixel_values"
PIECE = (
    4  # images at most and two at least: larger ones leave the caches, single ones pay for each run
)
LARGE = 256 * 2**20  # bytes of a graph that is not held twice


class TritonPythonModel:
    """Batches go in pieces to runs of one thread each, side by side: that takes less of the processor than
    threads that share every operator (docs/serving.md, "Speed"). Few images do share them,
    to be there sooner."""

    def initialize(self, args: dict[str, Any]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        self.threads = int(parameters["threads"]["string_value"])
        path = Path(__file__).resolve().parent / "model.onnx"
        self.together = session(path, self.threads)
        self.alone = None
        if self.threads > 1 and path.stat().st_size <= LARGE:
            self.alone, self.pool = session(path, 1), ThreadPoolExecutor(self.threads)

    def run(self, batch: Any) -> list[Any]:
        """The outputs of a batch [N, H, W, C]."""
        if self.alone is None or len(batch) < 2 * self.threads:
            return list(self.together.run(OUTPUTS, {INPUT: batch}))
        alone, size = self.alone, min(PIECE, len(batch) // self.threads)
        pieces = [batch[at : at + size] for at in range(0, len(batch), size)]
        found = list(self.pool.map(lambda piece: alone.run(OUTPUTS, {INPUT: piece}), pieces))
        return [np.concatenate(rows) for rows in zip(*found, strict=True)]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Runs the requests that Triton gathered as one batch and hands each its rows."""
        pixels = [
            pb_utils.get_input_tensor_by_name(request, INPUT).as_numpy() for request in requests
        ]
        outputs = self.run(pixels[0] if len(pixels) == 1 else np.concatenate(pixels))
        ends = np.cumsum([len(part) for part in pixels])
        return [
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor(name, np.ascontiguousarray(rows[end - len(part) : end]))
                    for name, rows in zip(OUTPUTS, outputs, strict=True)
                ]
            )
            for part, end in zip(pixels, ends, strict=True)
        ]


def session(path: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
