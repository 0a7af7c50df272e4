"""Smaller ONNX graphs: float16, and int8 by static quantisation (QDQ) calibrated on domain images."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from jepack.bundle import ONNX_NAMES

BATCH = 8


def to_float16(model: Any) -> Any:
    """Weights and arithmetic in float16, inputs and outputs as they were."""
    with warnings.catch_warnings():
        # Weights below 1e-7 become 0; the gate judges whether that matters.
        warnings.filterwarnings("ignore", message="the float32 number", category=UserWarning)
        return convert_float_to_float16(copy.deepcopy(model), keep_io_types=True)


def to_int8(model: Any, images: npt.NDArray[np.uint8], folder: Path) -> Any:
    """Weights per channel in 7 of 8 bits, activations in uint8 with ranges seen on `images`.

    7 bits: CPUs without VNNI add two products of 8 x 8 bits in 16, which saturates. On such a CPU full
    weights brought the smallest cosine of an Earth-tile encoder to 0.84 (embedding), 7 bits to 0.996.

    The projector stays in float32: it costs next to nothing, and its calibration amplifies errors.
    uint8 activations with int8 weights are what onnxruntime maps to VNNI.
    """
    whole, prepared, result = (folder / name for name in ("f32.onnx", "prepared.onnx", "int8.onnx"))
    onnx.save(model, whole)
    with quiet():
        quant_pre_process(whole, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            result,
            Batches(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=after(onnx.load(prepared), ONNX_NAMES["embedding"]),
        )
    return onnx.load(result)


class Batches(CalibrationDataReader):  # type: ignore[misc]
    """Calibration images, a batch at a time."""

    def __init__(self, images: npt.NDArray[np.uint8]) -> None:
        cuts = range(0, len(images), BATCH)
        self.feeds = iter([{"pixel_values": images[cut : cut + BATCH]} for cut in cuts])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.feeds, None)


def after(model: Any, output: str) -> list[str]:
    """Names of the nodes that read `output`, directly or not."""
    reached, names = {output}, []
    for node in model.graph.node:
        if reached & set(node.input):
            reached |= set(node.output)
            names.append(node.name)
    return names


@contextmanager
def quiet() -> Iterator[None]:
    """onnxruntime's quantiser prints progress and logs advice that was already taken."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        root.setLevel(level)
