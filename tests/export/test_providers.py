"""Where ONNX graphs run is what was asked for, or an error; bound memory gives the same answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from export import providers
from export.providers import onnx_engine
from jepack.bundle import Bundle
from jepack.errors import ConfigError, DependencyError


def test_bound_memory_gives_the_same_outputs(exported_bundle: Bundle) -> None:
    images = exported_bundle.golden()["images"]
    for plain, bound in zip(
        onnx_engine(exported_bundle.onnx())(images),
        providers.bound_engine(exported_bundle.onnx(), "cpu")(images),
        strict=True,
    ):
        np.testing.assert_array_equal(plain, bound)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["cuda", "tensorrt"])
def test_a_gpu_gives_the_golden_outputs(name: str, exported_bundle: Bundle, tmp_path: Path) -> None:
    if providers.PROVIDERS[name][0] not in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has no {name}")
    golden = exported_bundle.golden()
    engine = providers.bound_engine(exported_bundle.onnx(), name, tmp_path)
    np.testing.assert_allclose(engine(golden["images"])[0], golden["embedding"], atol=1e-2)


def test_a_provider_that_is_not_installed_is_told_with_its_mend() -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("it is installed here")
    with pytest.raises(DependencyError, match=r"serve-gpu"):
        providers.providers_of("cuda")
    with pytest.raises(ConfigError, match="cpu, cuda, tensorrt"):
        providers.providers_of("tpu")


def test_a_silent_fall_back_to_another_provider_is_an_error(
    exported_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime starts on the CPU when CUDA's libraries are missing, and says so in a log line only."""
    monkeypatch.setattr(providers, "providers_of", lambda name, cache: ["CPUExecutionProvider"])
    with pytest.raises(DependencyError, match="took its place"):
        providers.open_session(exported_bundle.onnx(), "cuda")


def test_tensorrt_hands_what_it_cannot_run_to_cuda_and_keeps_its_engine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    every = [provider for provider, _ in providers.PROVIDERS.values()]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: every)
    (first, options), *rest = providers.providers_of("tensorrt", tmp_path)
    assert (first, rest) == (
        "TensorrtExecutionProvider",
        ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    assert options["trt_engine_cache_path"] == str(tmp_path)
