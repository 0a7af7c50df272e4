"""What a hostile or damaged file may hold that the libraries' own readers accept. numpy and safetensors only.

Each check gives the problems it found, a sentence each. Hashes come first (verifying.py): these checks are
for a bundle whose manifest agrees with its files and is wrong all the same.
"""

from jepack.bundle.hardening.json_files import json_problems, manifest_problems, read_json
from jepack.bundle.hardening.onnx_graph import onnx_problems
from jepack.bundle.hardening.tensors import (
    MAX_TENSORS,
    golden_problems,
    misfit,
    projector_problems,
    safetensors_problems,
    shapes_in,
)

__all__ = [
    "MAX_TENSORS",
    "golden_problems",
    "json_problems",
    "manifest_problems",
    "misfit",
    "onnx_problems",
    "projector_problems",
    "read_json",
    "safetensors_problems",
    "shapes_in",
]
