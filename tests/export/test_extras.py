"""Optional outputs of the ONNX exports equal PyTorch's, and nobody who did not ask for them notices."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from small_bundle import write_small_bundle

from export.run import ExportResult, export_bundle
from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.errors import ArtifactError, ConfigError

EVERY = (
    "pooler_output", "projection", "pooler_output_normalized", "projection_normalized",
    "last_hidden_state",
)  # fmt: skip


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory, small_bundle: Bundle, digits_folder: Path
) -> Callable[[str], ExportResult]:
    """A ResNet and a ViT, exported with everything there is."""
    made: dict[str, ExportResult] = {}

    def make(architecture: str) -> ExportResult:
        if architecture not in made:
            folder = tmp_path_factory.mktemp("extras") / "bundle"
            if architecture == "resnet10t":
                shutil.copytree(small_bundle.folder, folder)
            else:
                write_small_bundle(folder, digits_folder, architecture=architecture)
            made[architecture] = export_bundle(
                bundles.load(folder),
                formats=["onnx"],
                data=digits_folder,
                extras=["normalized", "tokens"],
                timing=False,
            )
        return made[architecture]

    return make


def run(result: ExportResult) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(result.bundle.onnx(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    pixels = result.bundle.golden()["images"]
    return dict(zip(names, session.run(None, {"pixel_values": pixels}), strict=True))


@pytest.mark.parametrize("architecture", ["resnet10t", "test_vit"])
def test_the_extra_outputs_are_pytorch_s(
    architecture: str, exported: Callable[[str], ExportResult]
) -> None:
    from transformers import AutoModel

    result = exported(architecture)
    found, bundle = run(result), result.bundle
    assert tuple(found) == EVERY
    golden = bundle.golden()
    np.testing.assert_allclose(found["pooler_output"], golden["embedding"], atol=1e-4)
    for output in bundles.OUTPUTS:
        name = bundles.ONNX_NAMES[output]
        rows = golden[output] / np.linalg.norm(golden[output], axis=1, keepdims=True)
        np.testing.assert_allclose(found[f"{name}_normalized"], rows, atol=1e-4)
    pixels = torch.from_numpy(golden["images"]).permute(0, 3, 1, 2).float() / 255
    look = bundle.preprocessing
    mean, std = (torch.tensor(value).view(1, -1, 1, 1) for value in (look.mean, look.std))
    with torch.no_grad():
        model = AutoModel.from_pretrained(bundle.folder).eval()
        tokens = model(pixel_values=(pixels - mean) / std).last_hidden_state.numpy()
    assert found["last_hidden_state"].shape == tokens.shape
    np.testing.assert_allclose(found["last_hidden_state"], tokens, atol=1e-4 * np.abs(tokens).max())


def test_their_parity_is_measured_judged_and_kept(exported: Callable[[str], ExportResult]) -> None:
    bundle = exported("resnet10t").bundle
    figures = bundle.isotropy()["exports"]["onnx/model.onnx"]["extra_outputs"]
    assert set(figures) == set(EVERY[2:])
    assert all(entry["max_relative"] < 1e-3 for entry in figures.values())


def test_they_are_off_unless_asked_for(exported_bundle: Bundle) -> None:
    session = onnxruntime.InferenceSession(
        exported_bundle.onnx(), providers=["CPUExecutionProvider"]
    )
    assert [output.name for output in session.get_outputs()] == list(EVERY[:2])


def test_an_extra_output_that_does_not_exist_is_named(small_bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="normalized, tokens; found logits"):
        export_bundle(small_bundle, extras=["logits"])


@pytest.mark.triton
def test_a_bundle_with_extra_outputs_is_served_like_any_other(
    exported: Callable[[str], ExportResult], tmp_path: Path
) -> None:
    from jepack.client import Client
    from serving.server import TritonServer

    bundle = exported("resnet10t").bundle
    with TritonServer(
        bundle, http_port=0, grpc_port=0, metrics_port=0, log_file=tmp_path / "log"
    ) as server:  # ready: its golden images came back right
        assert Client(server.url).endpoint().fingerprints == bundle.fingerprints


def test_a_probe_of_the_bundle_becomes_an_output_that_says_the_same(
    small_bundle: Bundle, digits_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_bundle.folder, tmp_path / "bundle")
    bundle, generator = bundles.load(tmp_path / "bundle"), np.random.default_rng(0)
    with bundles.editing(bundle) as stage:
        for output, width in bundle.dimensions.items():
            rows = bundle.golden()[output]
            scale = rows.std(axis=0) + 1e-3
            scale[0] = np.finfo(np.float32).max  # of a number that never changes
            kept = bundles.Probe(
                name=f"of-{output}", output=output, fingerprint=bundle.fingerprints[output],
                classes=("a", "b", "c"), mean_D=rows.mean(axis=0), scale_D=scale,
                weight_CD=generator.normal(size=(3, width)) / width**0.5,
                bias_C=np.array([0, 1, -1e4]),
            )  # fmt: skip
            bundles.write_probe(stage, kept)
    bundle = bundles.load(bundle.folder)
    result = export_bundle(
        bundle, formats=["onnx"], data=digits_folder, probes=bundle.probes, timing=False
    )
    found = run(result)
    assert tuple(found) == (*EVERY[:2], "probe_of-embedding", "probe_of-projection")
    for output in bundle.dimensions:
        want = bundle.probe(f"of-{output}").probabilities(found[bundles.ONNX_NAMES[output]])
        np.testing.assert_allclose(found[f"probe_of-{output}"], want, atol=1e-5)
    with pytest.raises(ArtifactError, match="no probe is called 'nope'. It has of-embedding"):
        export_bundle(bundle, formats=["onnx"], probes=["nope"])
