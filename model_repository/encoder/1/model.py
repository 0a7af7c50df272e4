"""Triton Python model for CPU serving: model.onnx beside this file, run by ONNX Runtime.

Used through configs/cpu.pbtxt; the production config runs the same file in Triton's own backend.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when ONNX Runtime is imported

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

OUTPUTS = ["pooler_output", "projection"]


class TritonPythonModel:
    def initialize(self, args: dict[str, Any]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters["threads"]["string_value"])
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = Path(__file__).resolve().parent / "model.onnx"
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Runs the requests that Triton gathered as one batch and hands each its rows."""
        pixels = [
            pb_utils.get_input_tensor_by_name(request, "pixel_values").as_numpy()
            for request in requests
        ]
        batch = pixels[0] if len(pixels) == 1 else np.concatenate(pixels)
        outputs = self.session.run(OUTPUTS, {"pixel_values": batch})
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
