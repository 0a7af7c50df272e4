"""The generated model repository, read by Triton's own protobuf messages."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

import jepack
from jepack import bundle as bundles
from jepack.bundle import Bundle, golden_file
from jepack.decoding import Preprocessing, preprocess
from jepack.errors import ArtifactError, ConfigError
from serving.repository import SOURCES, Plan, RepositoryConfig, configs, write_repository
from serving.served import Served


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, small_bundle: Bundle) -> Bundle:
    """The generator only copies the graph, so any bytes do."""
    folder = tmp_path_factory.mktemp("graph") / "bundle"
    shutil.copytree(small_bundle.folder, folder)
    with bundles.editing(bundles.load(folder)) as stage:
        (stage / "onnx").mkdir()
        (stage / "onnx" / "model.onnx").write_bytes(b"a graph")
    return bundles.load(folder)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Path:
    return write_repository(bundle, tmp_path_factory.mktemp("models") / "repository")


def parse(path: Path) -> ModelConfig:
    return text_format.Parse(path.read_text(), ModelConfig())


def shapes(tensors: object) -> dict[str, tuple[int, list[int]]]:
    return {one.name: (one.data_type, list(one.dims)) for one in tensors}  # type: ignore[attr-defined]


def test_the_ensemble_takes_bytes_and_gives_both_outputs(repository: Path, bundle: Bundle) -> None:
    config = parse(repository / "embed" / "config.pbtxt")
    assert config.platform == "ensemble"
    assert shapes(config.input) == {"image": (13, [1])}  # TYPE_STRING
    dims = bundle.dimensions
    assert {name: shape for name, (_, shape) in shapes(config.output).items()} == {
        "embedding": [dims["embedding"]],
        "projection": [dims["projection"]],
    }
    assert [step.model_name for step in config.ensemble_scheduling.step] == [
        "preprocess",
        "encoder",
    ]
    texts = {key: value.string_value for key, value in config.parameters.items()}
    assert texts == {
        "bundle": bundle.name,
        "version": "1",
        **{f"fingerprint_{key}": value for key, value in bundle.fingerprints.items()},
        "default_output": "embedding",
        "promises": "",
        "window": "null",
        "crop": "1 center",
        "notes": "",
    }


def test_the_configs_that_can_be_read_in_the_repository_are_those_that_are_written(
    tmp_path: Path,
) -> None:
    """Where this fails after a change of serving/models.py, copy the written ones over the others."""
    (tmp_path / "isotropy.json").write_text("{}")
    look = Preprocessing(size=224, channels=3)
    manifest = {
        "name": "example", "preprocessing": look.to_json(), "default_output": "embedding",
        "dimensions": {"embedding": 192, "projection": 64}, "promises": {"drift": True}, "files": {},
        "fingerprints": {"embedding": "0123456789abcdef", "projection": "fedcba9876543210"},
    }  # fmt: skip
    plan = Plan([Served(Bundle(tmp_path, manifest))])
    written = dict(configs(plan, RepositoryConfig(threads=2)))
    for name, text in written.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    committed = {
        str(path.relative_to(SOURCES)): path.read_text() for path in SOURCES.rglob("*.pbtxt")
    }
    assert committed == written, f"cp -r {tmp_path}/* {SOURCES}"


def test_the_endpoint_tells_what_search_should_use_and_what_is_promised(
    bundle: Bundle, tmp_path: Path
) -> None:
    told = {"default_output": "projection", "promises": {"drift": True, "atypicality": False}}
    other = Bundle(bundle.folder, {**bundle.manifest, **told})
    config = parse(write_repository(other, tmp_path / "repository") / "embed" / "config.pbtxt")
    assert config.parameters["default_output"].string_value == "projection"
    assert config.parameters["promises"].string_value == "drift"


def test_the_endpoint_tells_what_was_forced_past_the_gate(bundle: Bundle, tmp_path: Path) -> None:
    gate = {"passed": False, "forced": True, "refusals": ["embedding: constant"]}
    other = Bundle(bundle.folder, {**bundle.manifest, "gate": gate})
    config = parse(write_repository(other, tmp_path / "repository") / "embed" / "config.pbtxt")
    told = config.parameters["notes"].string_value
    assert told == "encoder was refused by the gate and kept by --force: embedding: constant"


def test_the_models_fit_together_in_both_worlds(repository: Path, bundle: Bundle) -> None:
    decode = parse(repository / "preprocess" / "config.pbtxt")
    encode = parse(repository / "encoder" / "config.pbtxt")
    ensemble = parse(repository / "embed" / "config.pbtxt")
    alone = parse(repository / "embed" / "configs" / "cpu.pbtxt")
    assert shapes(decode.input) == shapes(ensemble.input) == shapes(alone.input)
    assert shapes(decode.output) == shapes(encode.input)
    assert shapes(alone.output) == shapes(ensemble.output)
    onnx_names = [bundles.ONNX_NAMES[output] for output in shapes(ensemble.output)]
    assert list(shapes(encode.output)) == onnx_names
    configs = (decode, encode, alone)
    assert {config.max_batch_size for config in configs} == {ensemble.max_batch_size}
    for config in configs:
        assert config.dynamic_batching.default_queue_policy.max_queue_size > 0
        assert config.model_warmup


def test_one_repository_serves_the_laptop_and_the_container(repository: Path) -> None:
    """Clients read the same of both; the laptop's one model takes what it needs from the other two."""
    laptop = parse(repository / "embed" / "configs" / "cpu.pbtxt")
    production = parse(repository / "encoder" / "config.pbtxt")
    assert (laptop.backend, production.backend) == ("python", "onnxruntime")
    assert production.default_model_filename == "model.onnx"
    assert (repository / "encoder" / "1" / "model.onnx").read_bytes() == b"a graph"
    told = {key: value.string_value for key, value in laptop.parameters.items()}
    assert (repository / told["decoder"] / "1" / "model.py").is_file()
    assert (repository / told["encoder"] / "1" / "model.onnx").is_file()
    for key, value in parse(repository / "embed" / "config.pbtxt").parameters.items():
        assert told[key] == value.string_value


def test_threads_and_decoders_are_where_they_were_asked_for(tmp_path: Path, bundle: Bundle) -> None:
    config = RepositoryConfig(threads=3, processes=4, decoders=5)
    folder = write_repository(bundle, tmp_path / "repository", config)
    laptop = parse(folder / "embed" / "configs" / "cpu.pbtxt")
    assert laptop.parameters["threads"].string_value == "3"
    assert laptop.instance_group[0].count == 4
    assert parse(folder / "preprocess" / "config.pbtxt").instance_group[0].count == 5


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt_is_a_choice_of_the_production_config(
    tmp_path: Path, bundle: Bundle, precision: str
) -> None:
    config = RepositoryConfig(tensorrt=precision, max_batch_size=8)
    folder = write_repository(bundle, tmp_path / "repository", config)
    found = parse(folder / "encoder" / "config.pbtxt").optimization.execution_accelerators
    [engine] = found.gpu_execution_accelerator
    assert engine.name == "tensorrt"
    assert engine.parameters["precision_mode"] == precision.upper()
    assert engine.parameters["trt_profile_max_shapes"] == "pixel_values:8x64x64x1"
    laptop = parse(folder / "embed" / "configs" / "cpu.pbtxt")
    assert not laptop.HasField("optimization")


def test_without_tensorrt_no_accelerator_is_named(repository: Path) -> None:
    assert not parse(repository / "encoder" / "config.pbtxt").HasField("optimization")


def test_a_bundle_name_with_quotes_survives(tmp_path: Path, bundle: Bundle) -> None:
    name = 'solar "cells" \\ ümlaut\n$size'
    odd = Bundle(bundle.folder, {**bundle.manifest, "name": name})
    folder = write_repository(odd, tmp_path / "repository")
    config = parse(folder / "embed" / "config.pbtxt")
    assert config.parameters["bundle"].string_value == name


def test_the_servers_decoder_is_jepacks_own(repository: Path, bundle: Bundle) -> None:
    version = repository / "preprocess" / "1"
    source = Path(jepack.__file__).parent
    given = {
        str(path.relative_to(version / "jepack")): path.read_bytes()
        for path in (version / "jepack").rglob("*.py")
        if path.name != "__init__.py" or path.parent.name == "decoding"
    }
    own = [source / "errors.py", *(source / "decoding").glob("*.py")]
    assert given == {str(path.relative_to(source)): path.read_bytes() for path in own}
    settings = json.loads((version / "preprocessing.json").read_text())
    assert Preprocessing.from_json(settings) == bundle.preprocessing


def test_the_decoder_runs_without_the_rest_of_jepack(repository: Path) -> None:
    version = repository / "preprocess" / "1"
    code = (
        f"import sys; sys.path.insert(0, {str(version)!r}); import jepack.decoding.preprocess as p\n"
        "import jepack.decoding.dicom\n"
        f"assert p.__file__.startswith({str(version)!r})\n"
        "names = {n.split('.')[0] for n in sys.modules} - sys.stdlib_module_names\n"
        "extra = {n for n in names if n[0] != '_'} - {'jepack', 'numpy', 'PIL', 'cython_runtime'}\n"
        "assert not extra, extra"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=version)


def test_the_warm_up_image_is_the_golden_one(repository: Path, bundle: Bundle) -> None:
    data = (repository / "preprocess" / "warmup" / "image").read_bytes()
    assert (repository / "embed" / "warmup" / "image").read_bytes() == data
    (length,) = struct.unpack("<I", data[:4])
    assert length == len(data) - 4
    pixels = preprocess.load(data[4:], bundle.preprocessing)
    np.testing.assert_array_equal(pixels, bundle.golden()["images"][0])


@pytest.mark.parametrize("crop_pct", [1.0, 0.875, 0.9])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("window", [None, "dicom", ((-1000.0, 400.0),), ((0.0, 1e-3),)])
def test_a_golden_file_gives_back_its_crop(crop_pct: float, channels: int, window: Any) -> None:
    settings = Preprocessing(
        size=45, channels=channels, mean=(0.5,) * channels, std=(0.2,) * channels,
        crop_pct=crop_pct, window=window,
    )  # fmt: skip
    crop = np.random.default_rng(0).integers(0, 256, (45, 45, channels), dtype=np.uint8)
    np.testing.assert_array_equal(preprocess.load(golden_file(crop, settings), settings), crop)


def test_a_repository_is_replaced_and_nothing_else_is(tmp_path: Path, bundle: Bundle) -> None:
    mine = write_repository(bundle, tmp_path / "repository")
    (mine / "stale").mkdir()
    write_repository(bundle, mine)
    assert not (mine / "stale").exists()
    theirs = tmp_path / "photos"
    theirs.mkdir()
    (theirs / "a.jpg").write_bytes(b"precious")
    with pytest.raises(ArtifactError, match="left alone"):
        write_repository(bundle, theirs)
    assert (theirs / "a.jpg").read_bytes() == b"precious"


def test_a_bundle_without_onnx_is_told_to_export(tmp_path: Path, small_bundle: Bundle) -> None:
    with pytest.raises(ArtifactError, match="jepack export"):
        write_repository(small_bundle, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match="off, fp32, fp16"):
        RepositoryConfig(tensorrt="int4")
