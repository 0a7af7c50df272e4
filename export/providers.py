"""ONNX Runtime on CPU, CUDA or TensorRT: which provider runs a graph, and data that stays on its device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from export.measure import Engine, Floats
from jepack.bundle import ONNX_NAMES
from jepack.errors import ConfigError, DependencyError
from jepack.machine import threads

# name: (execution provider, device of its memory)
PROVIDERS = {
    "cpu": ("CPUExecutionProvider", "cpu"),
    "cuda": ("CUDAExecutionProvider", "cuda"),
    "tensorrt": ("TensorrtExecutionProvider", "cuda"),
}


def providers_of(name: str, cache: Path | None = None) -> list[Any]:
    """What InferenceSession takes: the provider asked for and those it may hand nodes to.

    TensorRT builds its engine in the first run, minutes; `cache` keeps it for the next.
    """
    if name not in PROVIDERS:
        raise ConfigError(f"--provider must be {', '.join(PROVIDERS)}; found {name!r}")
    wanted = PROVIDERS[name][0]
    if wanted not in onnxruntime.get_available_providers():
        raise DependencyError(
            f"{wanted} is not in this onnxruntime. Replace it: pip uninstall onnxruntime && "
            "pip install 'jepack[serve-gpu]' (CUDA 12 or newer; TensorRT's libraries beside it)"
        )
    options: dict[str, Any] = {}
    if name == "tensorrt":
        options = {"trt_fp16_enable": True}
        if cache is not None:
            options |= {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(cache)}
    chain = ["cpu"] if name == "cpu" else [name, "cuda", "cpu"]
    providers = [PROVIDERS[link][0] for link in dict.fromkeys(chain)]
    return [(providers[0], options), *providers[1:]]


def session_options() -> Any:
    """As many threads as PyTorch has, which sleep while they wait: spinning ones hold the core that the
    missing one needs, on a machine whose cores others want."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads.fixed() or min(torch.get_num_threads(), threads.cores())
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def open_session(path: Path, provider: str, cache: Path | None = None) -> Any:
    """Raises DependencyError when onnxruntime falls back to another provider, which it does silently."""
    session = onnxruntime.InferenceSession(
        path, session_options(), providers=providers_of(provider, cache)
    )
    used = session.get_providers()[0]
    if used != PROVIDERS[provider][0]:
        raise DependencyError(
            f"{PROVIDERS[provider][0]} could not start and {used} took its place: its CUDA or TensorRT "
            "libraries are missing or of another version. See the log above."
        )
    return session


def onnx_engine(path: Path) -> Engine:
    """On the CPU, arrays in and out."""
    session = onnxruntime.InferenceSession(
        path, session_options(), providers=["CPUExecutionProvider"]
    )
    names = list(ONNX_NAMES.values())

    def run(images: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        embedding, projection = session.run(names, {"pixel_values": images})
        return embedding.astype(np.float32), projection.astype(np.float32)

    return run


def bound_engine(path: Path, provider: str, cache: Path | None = None) -> Engine:
    """Runs images with IO binding: one copy to the device, one back, none in between."""
    session = open_session(path, provider, cache)
    device = PROVIDERS[provider][1]
    names = list(ONNX_NAMES.values())

    def run(images: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        pixels = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(images), device, 0)
        binding = session.io_binding()
        binding.bind_ortvalue_input("pixel_values", pixels)
        for name in names:
            binding.bind_output(name, device, 0)
        session.run_with_iobinding(binding)
        embedding, projection = binding.copy_outputs_to_cpu()
        return embedding.astype(np.float32), projection.astype(np.float32)

    return run
