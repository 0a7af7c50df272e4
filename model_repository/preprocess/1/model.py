"""Triton Python model: image bytes -> the uint8 crop the encoder sees, by jepack's one decoder.

One thread a process, and more processes instead: threads of several decoders fight over the same cores.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

# Read when the libraries are imported.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["TIFFFILE_NUM_THREADS"] = "1"

import numpy as np
import triton_python_backend_utils as pb_utils
from PIL import features

# serving/repository.py puts copies of jepack's decoder beside this file; they come
# first, so that a jepack installed in the server's Python cannot change the pixels.
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from jepack.decoding import Preprocessing, load  # noqa: E402
from jepack.errors import DecoderError  # noqa: E402


class Decoder:
    """jepack's decoder as the bundle sets it; the model of CPU serving uses it from here as well."""

    def __init__(self) -> None:
        one_thread()
        settings = json.loads((HERE / "preprocessing.json").read_text())
        self.preprocessing = Preprocessing.from_json(settings)

    def crop(self, data: bytes) -> Any:
        """[size, size, C] uint8, or the reason why there is none."""
        try:
            return load(data, self.preprocessing)
        except Exception as error:  # of whatever kind: it fails its request, not its neighbours
            reason = str(error) or type(error).__name__
            if isinstance(error, DecoderError):
                reason = f"in the server, {reason}; `jepack doctor` tells what it decodes"
            return reason


class TritonPythonModel:
    def initialize(self, args: dict[str, Any]) -> None:
        self.decoder = Decoder()

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        """Crops [B, size, size, C] of one request, or an error that fails this request only."""
        images = pb_utils.get_input_tensor_by_name(request, "image").as_numpy().reshape(-1)
        crops = []
        for number, data in enumerate(images):
            crop = self.decoder.crop(bytes(data))
            if isinstance(crop, str):
                return refused(number, len(images), crop)
            crops.append(crop)
        return pb_utils.InferenceResponse([pb_utils.Tensor("pixel_values", np.stack(crops))])


def refused(number: int, images: int, reason: str) -> Any:
    """The error of a request by its image `number` of so many."""
    text = f"image {number}: {reason}" if images > 1 else f"image: {reason}"
    error = pb_utils.TritonError(text, pb_utils.TritonError.INVALID_ARG)
    return pb_utils.InferenceResponse(output_tensors=[], error=error)


def one_thread() -> None:
    """Tell the decoders that would take a thread a core, and read no variable for it."""
    if features.check("avif"):
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.options.DECODE_THREADS = 1
