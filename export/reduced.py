"""Smaller ONNX graphs: float16, and int8 by static quantisation (QDQ) calibrated on domain images."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx.helper import make_node
from onnx.numpy_helper import from_array
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from export.measure import Floats, run_engine
from export.providers import onnx_engine
from jepack.bundle import ONNX_NAMES

Array = npt.NDArray[np.float64]

BATCH = 8
LAYERS = ("Conv", "Gemm", "MatMul")
PULL = 0.01  # of the channels' mean variance


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

    The normalisation stays in float32: quantised, its channels share one range and are rounded three
    times. The projector too: it costs next to nothing, and its calibration amplifies errors. So `corrected`
    takes out what a line per channel explains of the embedding's error. Measured by benchmarks/int8.py.
    """
    prepared = prepare(model, folder)
    graph = onnx.load(prepared)
    floats = [*before_layers(graph), *after(graph, ONNX_NAMES["embedding"])]
    return corrected(quantise(prepared, images, floats), prepared, images)


def prepare(model: Any, folder: Path) -> Path:
    """The float32 graph as a file that the quantiser takes: shapes inferred, BatchNorm folded."""
    whole, prepared = folder / "f32.onnx", folder / "prepared.onnx"
    onnx.save(model, whole)
    with quiet():
        quant_pre_process(whole, prepared, skip_symbolic_shape=True)
    return prepared


def quantise(
    prepared: Path, images: npt.NDArray[np.uint8], floats: list[str], **changes: Any
) -> Any:
    """The int8 graph; nodes named in `floats` stay in float32. `changes` are quantize_static's options."""
    options: dict[str, Any] = {
        "per_channel": True,
        "reduce_range": True,
        "activation_type": QuantType.QUInt8,  # with int8 weights, what onnxruntime maps to VNNI
        "weight_type": QuantType.QInt8,
        "calibrate_method": CalibrationMethod.MinMax,
        **changes,
    }
    result = prepared.with_name("int8.onnx")
    with quiet():
        quantize_static(
            prepared,
            result,
            Batches(images),
            quant_format=QuantFormat.QDQ,
            nodes_to_exclude=floats,
            **options,
        )
    return onnx.load(result)


def corrected(model: Any, prepared: Path, images: npt.NDArray[np.uint8]) -> Any:
    """The int8 graph with a line per channel of the embedding, fitted to float32's on `images`."""
    result, name = prepared.with_name("int8.onnx"), ONNX_NAMES["embedding"]
    onnx.save(model, result)
    got, want = (run_engine(onnx_engine(path), images).embedding for path in (result, prepared))
    slope, shift = fit_lines(got, want)
    nodes = model.graph.node
    place = next(index for index, node in enumerate(nodes) if name in node.output)
    before, scaled = f"{name}_before_correction", f"{name}_scaled"
    nodes[place].output[list(nodes[place].output).index(name)] = before
    for values, label in ((slope, "slope"), (shift, "shift")):
        tensor = from_array(values.astype(np.float32), f"{name}_{label}")
        model.graph.initializer.append(tensor)
    nodes.insert(place + 1, make_node("Mul", [before, f"{name}_slope"], [scaled], scaled))
    nodes.insert(
        place + 2, make_node("Add", [scaled, f"{name}_shift"], [name], f"{name}_corrected")
    )
    return model


def fit_lines(got_NE: Floats, want_NE: Floats) -> tuple[Array, Array]:
    """(slope, shift), each [E]: per channel the least squares of got * slope + shift - want.

    Where a channel hardly varies, its slope is drawn to 1: a few images say little about it.
    """
    got, want = got_NE.astype(np.float64), want_NE.astype(np.float64)
    mean, target = got.mean(axis=0), want.mean(axis=0)
    variance = ((got - mean) ** 2).mean(axis=0)
    pull = max(PULL * float(variance.mean()), 1e-30)
    slope = (((got - mean) * (want - target)).mean(axis=0) + pull) / (variance + pull)
    return slope, target - slope * mean


class Batches(CalibrationDataReader):  # type: ignore[misc]
    """Calibration images, a batch at a time."""

    def __init__(self, images: npt.NDArray[np.uint8]) -> None:
        cuts = range(0, len(images), BATCH)
        self.feeds = iter([{"pixel_values": images[cut : cut + BATCH]} for cut in cuts])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.feeds, None)


def before_layers(model: Any) -> list[str]:
    """Names of the nodes before the first layer that multiplies by weights: the normalisation."""
    nodes = takewhile(lambda node: node.op_type not in LAYERS, model.graph.node)
    return [node.name for node in nodes]


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
