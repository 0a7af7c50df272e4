"""Nothing leaves the machine unasked: libraries that report home are told not to before they start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
MODEL = Path(__file__).parents[1] / "model_repository" / "embed" / "1" / "model.py"
SERVED = (
    "import runpy, sys, types\n"
    "sys.modules['triton_python_backend_utils'] = types.ModuleType('pb_utils')\n"
    f"runpy.run_path({str(MODEL)!r})\n"
)


@pytest.mark.parametrize(
    "code", ["import jepack, onnxruntime\n", SERVED], ids=["jepack", "the served model"]
)
def test_onnx_runtime_sends_nothing_and_numbers_no_device(code: str, tmp_path: Path) -> None:
    """From 1.29 on its import alone makes the store of what is to be sent."""
    suppressing = ("ORT_", "CI", "XDG_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(suppressing)}
    asked = "import os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run(
        [sys.executable, "-c", code + asked], env={**environment, "HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert not list(tmp_path.rglob("*onnxruntime*"))


def test_what_the_user_has_set_stays() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import jepack, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"],
        env={**os.environ, "ORT_DISABLE_TELEMETRY": "0"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout == "0\n"
