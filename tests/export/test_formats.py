"""Every export is the same encoder as PyTorch's, at any batch size, and stands alone."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from export import making
from export.evaluation import find_evaluation
from export.formats import FORMATS, Source
from export.gates import Parity, Thresholds
from export.run import ExportResult, export_bundle
from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.encoder import EncoderGraph, load_encoder, serving_graph
from jepack.errors import ConfigError, DataError


@pytest.mark.parametrize("name", ["onnx", "torchscript"])
def test_every_engine_returns_the_golden_outputs(name: str, exported_bundle: Bundle) -> None:
    golden = exported_bundle.golden()
    engine = FORMATS[name].engine(exported_bundle.folder / FORMATS[name].file)
    embedding, projection = engine(golden["images"])
    np.testing.assert_allclose(embedding, golden["embedding"], atol=1e-5)
    np.testing.assert_allclose(projection, golden["projection"], atol=1e-3)


@pytest.mark.parametrize("name", ["onnx", "torchscript"])
def test_the_batch_size_is_free(name: str, exported_bundle: Bundle) -> None:
    images = exported_bundle.golden()["images"]
    engine = FORMATS[name].engine(exported_bundle.folder / FORMATS[name].file)
    together = engine(images)[0]
    for size in (1, 3):
        np.testing.assert_allclose(engine(images[:size])[0], together[:size], atol=1e-5)


def test_the_onnx_graph_has_the_agreed_names_and_no_traces_of_its_maker(
    exported_bundle: Bundle,
) -> None:
    session = onnxruntime.InferenceSession(
        exported_bundle.onnx(), providers=["CPUExecutionProvider"]
    )
    (pixels,) = session.get_inputs()
    assert (pixels.name, pixels.type, pixels.shape) == (
        "pixel_values",
        "tensor(uint8)",
        ["batch_size", 64, 64, 1],
    )
    assert [output.name for output in session.get_outputs()] == ["pooler_output", "projection"]
    data = exported_bundle.onnx().read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in data
    model = onnx.load(exported_bundle.onnx(), load_external_data=False)
    assert not [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]


def test_exporting_changes_neither_weights_nor_fingerprints(
    exported_bundle: Bundle, small_bundle: Bundle
) -> None:
    assert exported_bundle.fingerprints == small_bundle.fingerprints
    assert bundles.verify(exported_bundle.folder) == []
    assert bundles.verify(small_bundle.folder) == []


def test_an_unknown_format_is_named(small_bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match=r"'caffe'.*onnx"):
        export_bundle(small_bundle, formats=["onnx", "caffe"])


def test_the_golden_images_stand_in_when_there_is_no_data(
    small_bundle: Bundle, tmp_path: Path
) -> None:
    homeless = Bundle(small_bundle.folder, {**small_bundle.manifest, "provenance": {}})
    evaluation = find_evaluation(homeless, None, 512)
    assert evaluation.held_out_count == 0
    assert "golden images only" in evaluation.source


def test_a_data_folder_without_images_is_an_error(small_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images found"):
        find_evaluation(small_bundle, tmp_path, 512)


@pytest.fixture(scope="module")
def every_format(
    tmp_path_factory: pytest.TempPathFactory, small_bundle: Bundle, digits_folder: Path
) -> ExportResult:
    folder = tmp_path_factory.mktemp("every") / "bundle"
    shutil.copytree(small_bundle.folder, folder)
    names = ["onnx", "pt2", "fp16", "int8"]
    # Random weights, whitened in 64 dimensions on 60 images: the projection is amplified noise.
    lenient = Thresholds()
    for precision in ("float16", "int8"):
        lenient.parity[precision] = Parity(
            max_relative=99, cosine=-1, statistic_change=999, recall=0
        )
    return export_bundle(
        bundles.load(folder), formats=names, data=digits_folder, thresholds=lenient
    )


def test_float16_and_int8_keep_the_neighbours_and_are_smaller(every_format: ExportResult) -> None:
    size = {item.format: item.facts["bytes"] for item in every_format.exports}
    assert size["fp16"] < 0.55 * size["onnx"]
    assert size["int8"] < 0.55 * size["onnx"]
    for item in every_format.exports:
        assert item.verdict.refusals == []
        assert item.parity["embedding"]["recall_at_10"] >= 0.8


def test_the_quantised_graph_runs_in_int8_and_was_not_judged_on_its_own_calibration_images(
    every_format: ExportResult, digits_folder: Path
) -> None:
    model = onnx.load(every_format.bundle.folder / "onnx" / "model_quantized.onnx")
    kinds = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    evaluation = find_evaluation(every_format.bundle, digits_folder, 512)
    judged = {image.tobytes() for image in evaluation.images[evaluation.judged]}
    assert len(evaluation.calibration) == 12
    assert not judged & {image.tobytes() for image in evaluation.calibration}


def test_a_torch_export_archive_names_no_path_of_its_maker(every_format: ExportResult) -> None:
    with zipfile.ZipFile(every_format.bundle.folder / "model.pt2") as archive:
        text = b"".join(archive.read(name) for name in archive.namelist())
    assert str(Path(__file__).parents[2]).encode() not in text


def test_speed_is_recorded_for_each_batch_size(every_format: ExportResult) -> None:
    recorded = every_format.bundle.isotropy()["exports"]
    assert set(recorded["model.pt2"]["milliseconds"]) == {"1", "8", "32"}
    assert all(spent > 0 for facts in recorded.values() for spent in facts["milliseconds"].values())


@pytest.mark.parametrize(
    ("milliseconds", "times", "recommended"),
    [(20.0, 1.5, True), (20.01, 1.5, False), (12.0, 2.5, True), (60.0, 0.5, False)],
    ids=["just enough", "1.499, told as 1.5", "fast", "slower"],
)
def test_int8_is_recommended_where_it_is_half_as_fast_again_as_float32_at_batch_8(
    milliseconds: float,
    times: float,
    recommended: bool,
    every_format: ExportResult,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a machine that takes 30 ms for float32; at batch 1 and 32 int8 is made to say the opposite."""
    other = 100.0 if recommended else 1.0

    def measured(engines: dict[str, Any], images: Any) -> dict[str, dict[str, float]]:
        found = {name: {"1": 30.0, "8": 30.0, "32": 30.0} for name in engines}
        found["onnx/model_quantized.onnx"] = {"1": other, "8": milliseconds, "32": other}
        return found

    monkeypatch.setattr(making, "time_engines", measured)
    bundle = every_format.bundle
    graph = serving_graph(bundle)
    images = bundle.golden()["images"]
    evaluation = find_evaluation(
        Bundle(bundle.folder, {**bundle.manifest, "provenance": {}}), None, 8
    )
    source = Source(graph, images, bundle.folder)
    exports = making.time_exports(every_format.exports, source, evaluation, Thresholds())
    facts = {item.format: item.facts for item in exports}
    assert facts["int8"]["over_float32"] == times
    assert facts["int8"]["recommended"] is recommended
    assert "recommended" not in facts["fp16"]


def test_a_bundle_with_reduced_graphs_is_sound(every_format: ExportResult) -> None:
    folder = every_format.bundle.folder
    assert (folder / "onnx" / "model_quantized.onnx").is_file()
    assert (folder / "onnx" / "model_fp16.onnx").is_file()
    assert bundles.verify(folder) == []


def test_an_int8_export_that_loses_neighbours_is_left_out_and_the_rest_is_written(
    tmp_path: Path, small_bundle: Bundle, digits_folder: Path
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(small_bundle.folder, folder)
    strict = Thresholds()
    strict.parity["int8"] = Parity(max_relative=0, cosine=1, statistic_change=0, recall=1)
    result = export_bundle(
        bundles.load(folder),
        formats=["onnx", "int8"],
        data=digits_folder,
        thresholds=strict,
        timing=False,
    )
    assert result.bundle.onnx().is_file()
    assert not (folder / "onnx" / "model_quantized.onnx").exists()
    assert (
        "model_quantized"
        in result.bundle.isotropy()["left_out"]["onnx/model_quantized.onnx"]["refusals"][0]
    )


def test_the_card_tells_of_the_exports_and_how_each_library_loads_them(
    exported_bundle: Bundle,
) -> None:
    card = (exported_bundle.folder / "README.md").read_text()
    for words in ("onnx/model.onnx", "torchscript/model.pt", "AutoModel", "SentenceTransformer"):
        assert words in card


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full")
@pytest.mark.parametrize("name", ["onnx", "torchscript", "pt2"])
def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(
    name: str, small_bundle: Bundle, tmp_path: Path
) -> None:
    """torch's own writer ends the process with SIGABRT."""
    encoder, calibration = load_encoder(small_bundle)
    graph = EncoderGraph(encoder, small_bundle.preprocessing, calibration).eval()
    source = Source(graph, small_bundle.golden()["images"], tmp_path)
    with pytest.raises(OSError, match="No space left"):
        FORMATS[name].write(source, Path("/dev/full"))
