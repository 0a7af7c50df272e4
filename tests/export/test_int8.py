"""What int8 leaves in float32, and what its embedding is corrected by."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from export.evaluation import find_evaluation
from export.gates import Parity, Thresholds
from export.reduced import fit_lines
from export.run import export_bundle
from jepack import bundle as bundles
from jepack.bundle import Bundle

WEIGHTED = ("Conv", "Gemm", "MatMul")


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory, small_bundle: Bundle, digits_folder: Path
) -> Bundle:
    """The small bundle with its float32 and int8 graphs."""
    folder = tmp_path_factory.mktemp("int8") / "bundle"
    shutil.copytree(small_bundle.folder, folder)
    # Random weights, whitened in 64 dimensions on 60 images: the projection is amplified noise.
    lenient = Thresholds()
    lenient.parity["int8"] = Parity(max_relative=99, cosine=-1, statistic_change=999, recall=0)
    return export_bundle(
        bundles.load(folder),
        formats=["onnx", "int8"],
        data=digits_folder,
        extras=["normalized"],
        thresholds=lenient,
        timing=False,
    ).bundle


def run(bundle: Bundle, file: str, images: Any) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(
        bundle.folder / "onnx" / file, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"pixel_values": images}), strict=True))


def test_layers_of_the_backbone_are_int8_and_normalisation_and_projector_are_float32(
    exported: Bundle,
) -> None:
    model = onnx.load(exported.folder / "onnx" / "model_quantized.onnx")
    made_by = {name: node for node in model.graph.node for name in node.output}
    weighted = [node for node in model.graph.node if node.op_type in WEIGHTED]
    kinds = [made_by[node.input[0]].op_type for node in weighted]
    layers = len(kinds) - 3  # of the projector
    assert layers > 10
    assert kinds[:layers] == ["DequantizeLinear"] * layers
    assert "DequantizeLinear" not in kinds[layers:]
    assert not [name for node in weighted[layers:] for name in node.input if "quantized" in name]
    quantised = made_by[made_by[weighted[0].input[0]].input[0]]
    assert quantised.op_type == "QuantizeLinear"
    pixels = made_by[quantised.input[0]]
    while pixels.input[0] != "pixel_values":
        assert pixels.op_type not in ("QuantizeLinear", "DequantizeLinear")
        pixels = made_by[pixels.input[0]]


def test_on_the_images_that_gave_the_ranges_no_channel_of_the_embedding_is_off_on_average(
    exported: Bundle, digits_folder: Path
) -> None:
    images = find_evaluation(exported, digits_folder, 512).calibration
    want, got = (
        run(exported, file, images)["pooler_output"]
        for file in ("model.onnx", "model_quantized.onnx")
    )
    off = np.abs(got - want)
    assert off.max() > 0.1 * np.abs(want).max()  # random weights; the mean was off by 0.43 of it
    assert np.abs((got - want).mean(axis=0)).max() < 0.01 * np.abs(want).max()


def test_the_projection_and_further_outputs_rest_on_the_corrected_embedding(
    exported: Bundle,
) -> None:
    images = exported.golden()["images"]
    got = run(exported, "model_quantized.onnx", images)
    embedding = got["pooler_output"]
    size = np.linalg.norm(embedding, axis=1, keepdims=True)
    np.testing.assert_allclose(got["pooler_output_normalized"], embedding / size, atol=1e-5)


def test_lines_undo_a_scale_and_a_shift_and_leave_a_constant_channel_its_slope() -> None:
    want = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    got = (want * [2, 0.5, 0] + [1, -3, 7]).astype(np.float32)
    slope, shift = fit_lines(got, want)
    np.testing.assert_allclose(slope, [0.5, 2, 1], rtol=0.05)
    np.testing.assert_allclose((got * slope + shift).mean(axis=0), want.mean(axis=0), atol=1e-5)
    assert np.abs((got * slope + shift - want)[:, :2]).max() < 0.1


def test_lines_of_one_image_move_it_there_and_scale_nothing() -> None:
    got, want = np.array([[1, 2]], np.float32), np.array([[1.5, 1]], np.float32)
    slope, shift = fit_lines(got, want)
    assert slope.tolist() == [1, 1]
    assert shift.tolist() == [0.5, -1]
