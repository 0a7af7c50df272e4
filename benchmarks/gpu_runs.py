"""Rows of `python -m benchmarks.gpu` that show that it works: tests, a run, ranks, a bundle, export."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_place import ROOT, Figures, Place, outcome
from jepack.decoding import Preprocessing
from jepack.encoder import build_encoder
from training.watch import features


def tests(place: Place) -> Figures:
    """`pytest -m gpu` over the files that hold such tests, so that no other package is needed."""
    if not torch.cuda.is_available():
        return {"outcome": "no GPU"}
    marked = [
        str(file.relative_to(ROOT))
        for file in sorted((ROOT / "tests").rglob("test_*.py"))
        if "mark.gpu" in file.read_text()
        and not (file.name == "test_providers.py" and not providers())
    ]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        "--durations=8",
    ]
    if importlib.util.find_spec("pytest_timeout") is None:  # the settings name its option
        command += ["-c", os.devnull, "--rootdir", str(ROOT), "-W", "error"]
    done = subprocess.run(
        [*command, *marked], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
    )  # fmt: skip
    (place.out / "pytest.txt").write_text(done.stdout + done.stderr)
    counts = {
        word: int(number)
        for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)
    }
    failed = re.findall(r"^(?:FAILED|ERROR) (.{1,200})", done.stdout, re.MULTILINE)
    word = (
        "passed" if done.returncode == 0 else f"pytest ended with {done.returncode}, see pytest.txt"
    )
    return {"outcome": word, **counts, **({"which": failed} if failed else {})}


def end_to_end(place: Place) -> Figures:
    """`--device cuda` from a folder to a bundle that verifies, as a user types it."""
    run = place.work / "runs" / "end-to-end"
    begin = time.perf_counter()
    words = ["--recipe", "quickstart", "--out", str(run), "--device", place.device.type]
    words += ["--set", "minutes=null", "--epochs", "2" if place.small else "6", "--fresh"]
    if place.small:
        words += ["--encoder", "test_resnet", "--images-per-step", "16", "--size", "32"]
        words += ["--set", "eval_size=32", "--set", "projector_hidden=64", "--set", "slices=64"]
    train(place.photos(), *words)
    trained = time.perf_counter() - begin
    steps_done = [line for line in logged(run) if "loss" in line]
    checks = [line["evaluation"] for line in logged(run) if "evaluation" in line]
    jepack("verify", str(run / "bundle"))
    return outcome() | {
        "bundle": "verified", "seconds": trained, "steps": len(steps_done),
        "loss": steps_done[-1]["loss"], "knn": checks[-1].get("knn"),
    }  # fmt: skip


def bundling(place: Place) -> Figures:
    """Seconds for the 6,144 images of a bundle, on the device and on one thread of the CPU."""
    name, size = ("test_vit", 32) if place.small else ("vit_base_patch16_224", 224)
    look = Preprocessing(size=size, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    encoder = build_encoder(name, channels=3, size=size).eval()
    images = np.random.default_rng(0).integers(0, 256, (512, size, size, 3), dtype=np.uint8)

    def seconds(count: int) -> float:
        begin = time.perf_counter()
        for start in range(0, count, 64):
            features(encoder, images[start : start + 64][: count - start], look)
        return (time.perf_counter() - begin) * 6144 / count

    torch.set_num_threads(1)
    on_cpu = seconds(8)
    encoder.to(place.device)
    seconds(64)  # warms up
    return outcome() | {"encoder": name, "device_s": seconds(512), "one_cpu_thread_s": on_cpu}


def two_ranks(place: Place) -> Figures:
    """Two ranks that share the device over gloo, against one process: the largest difference of a loss."""
    found, losses = outcome(), {}
    encoder = "test_resnet"  # a BatchNorm in every layer
    for precision in ("fp64",) if place.small else ("fp64", "fp32"):
        for ranks in (1, 2):
            run = place.work / "runs" / f"{precision}-{ranks}"
            words = ["--recipe", "quickstart", "--out", str(run), "--preset", "none", "--fresh"]
            words += ["--encoder", encoder, "--precision", precision, "--size", "32"]
            words += ["--images-per-step", "32", "--learning-rate", "2e-4"]
            for setting in (
                "eval_size=32", "global_views=2", "projector_hidden=32", "projection_dims=16",
                "slices=64", "minutes=null", "evaluate_epochs=100", "workers=1",
            ):  # fmt: skip
                words += ["--set", setting]
            words += ["--epochs", "2" if place.small else "0.2"]
            device = "cuda:0" if place.device.type == "cuda" else "cpu"
            train(place.photos(), *words, "--device", device, ranks=ranks)
            losses[ranks] = [line["loss"] for line in logged(run) if "loss" in line]
        worst = max(abs(a - b) for a, b in zip(losses[1], losses[2], strict=True))
        found[f"{encoder} {precision}"] = f"{worst:.1e} in {len(losses[1])} steps"
    return found


def export(place: Place) -> Figures:
    """ONNX Runtime on the GPU beside PyTorch on it, milliseconds per batch; TensorRT where it is."""
    names = providers()
    if not torch.cuda.is_available():
        return {"outcome": "no GPU"}
    if not names:
        return {"outcome": "left out: no onnxruntime with CUDA here (pip install onnxruntime-gpu)"}
    from benchmarks.export_speed import measure

    found: Figures = {}
    for name in names:
        for engine, spent in measure("resnet18", name, ["onnx"]).items():
            found[f"{name} {engine}"] = ", ".join(f"{b}: {ms:.2f} ms" for b, ms in spent.items())
    return found


def providers() -> list[str]:
    """The GPU providers of this onnxruntime, by our names."""
    if importlib.util.find_spec("onnxruntime") is None:
        return []
    import onnxruntime

    wanted = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "tensorrt"}
    return [wanted[name] for name in onnxruntime.get_available_providers() if name in wanted]


def train(data: Path, *words: str, ranks: int = 1) -> None:
    command = [sys.executable, "-m", "jepack", "train"]
    if ranks > 1:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={ranks}", "-m", "jepack", "train"]
    subprocess.run([*command, str(data), *words], cwd=ROOT, check=True)


def jepack(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "jepack", *words], cwd=ROOT, check=True)


def logged(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
