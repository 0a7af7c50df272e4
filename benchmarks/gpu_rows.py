"""The rows of `python -m benchmarks.gpu`: each a function of a place that gives its figures."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from jepack.decoding import Preprocessing
from jepack.encoder import build_encoder
from jepack.sources import Source
from training.parallel import Ranks, choose_device, compile_in_place
from training.run import Entry, Unread, judge, prepare, seed_everything, take_step
from training.settings import TrainConfig, recipe
from training.views import Prefetcher
from training.watch import features

ROOT = Path(__file__).parents[1]
NO_GPU = "no GPU: on the CPU, small"
Figures = dict[str, Any]


@dataclass(frozen=True)
class Place:
    out: Path  # of results
    work: Path  # of pictures, caches and runs; shared by the rows
    tiny: bool

    @property
    def small(self) -> bool:
        return self.tiny or not torch.cuda.is_available()

    @property
    def device(self) -> torch.device:
        return choose_device("cuda" if torch.cuda.is_available() else "cpu")

    def photos(self) -> Path:
        """A folder of smooth coloured pictures in four class folders, 256 px; made once."""
        folder, count = self.work / "photos", 64 if self.small else 2048
        if folder.is_dir():
            return folder
        stage = self.work / "photos.new"
        generator = np.random.default_rng(0)
        for number in range(count):
            kind = number % 4
            coarse = generator.integers(0, 256, (4 + 2 * kind, 4 + 2 * kind, 3), dtype=np.uint8)
            picture = cv2.resize(coarse, (256, 256), interpolation=cv2.INTER_CUBIC)
            target = stage / f"kind-{kind}" / f"{number:05d}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(target), picture)
        stage.rename(folder)
        return folder


def outcome() -> Figures:
    return {} if torch.cuda.is_available() else {"outcome": NO_GPU}


def machine(place: Place) -> Figures:
    found: Figures = {"torch": torch.__version__, "python": platform.python_version()}
    found |= {
        "cores": os.cpu_count(),
        "onnxruntime": version("onnxruntime"),
        "timm": version("timm"),
    }
    if not torch.cuda.is_available():
        return {"outcome": "no GPU", **found}
    properties = torch.cuda.get_device_properties(place.device)
    capability = f"{properties.major}.{properties.minor}"
    found |= {"gpu": properties.name, "gib": round(properties.total_memory / 2**30, 1)}
    return found | {"capability": capability, "gpus": torch.cuda.device_count()}


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


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


def small_settings(config: TrainConfig) -> TrainConfig:
    return replace(
        config, encoder="test_vit" if "vit" in config.encoder else "test_resnet", size=32, local_size=16,
        images_per_step=16, slices=64, projector_hidden=64, eval_size=32, workers=1,
    )  # fmt: skip


def resnet_settings(place: Place) -> TrainConfig:
    """ResNet-18, 128 images of 8 views of 128 px."""
    found = replace(recipe("small-domain"), images_per_step=128, channels=3, workers=workers())
    return small_settings(found) if place.small else found


def vit_settings(place: Place) -> TrainConfig:
    """ViT-S/16, 128 images of 2 views of 224 px and 6 of 96 px."""
    found = replace(recipe("vit_small"), images_per_step=128, channels=3, workers=workers())
    return small_settings(found) if place.small else found


def workers() -> int:
    return max(1, min(12, (os.cpu_count() or 2) - 2))


def steps(place: Place, config: TrainConfig) -> Figures:
    """Steady speed of training steps with their views, what they wait for, and memory."""
    device, seconds = place.device, 2.0 if place.small else 20.0
    here = Ranks(0, 1, device)
    prepared = prepare(config, Source.of(place.photos()), here)
    config, session = prepared.config, prepared.start()
    state = session.state
    state.total *= 100  # far from the schedule's end
    cutter, finisher = prepared.cutter(), prepared.finisher()
    unread, shares, took = Unread(), [], []
    first_s, warm, waits = 0.0, 3 if place.small else 8, Counter[str]()
    with Prefetcher(cutter, 0, config.workers) as batches:
        for number, batch in enumerate(batches):
            begin = time.perf_counter()
            counted = number in (warm - 1, warm - 2)
            with counting(waits if counted else None):
                seed_everything(config, state.step, here)
                views = finisher.finish(batch)
                reading = take_step(config, session, views, here)
            unread.wait()
            spent = time.perf_counter() - begin + batch.waited_s
            first_s = first_s or spent
            for entry in unread.put(Entry(reading, spent, batch.waited_s, views.took)):
                judge(session, entry.reading)
                if entry.reading.step >= warm:
                    shares.append((entry.waited_s + entry.views.seconds()) / entry.took_s)
            if number >= warm:
                took.append(spent)
            if sum(took) > seconds or (
                took and sum(took) / len(took) * (len(took) + 1) > 2 * seconds
            ):
                break
    for entry in unread.rest():
        judge(session, entry.reading)
    step_s = sum(took) / len(took)
    found = outcome() | {
        "images_per_s": config.images_per_step / step_s, "ms_per_step": 1000 * step_s,
        "views_share": statistics.median(shares or [0.0]), "waits_per_step": sum(waits.values()) / 2,
        "precision": config.precision, "steps": len(took), "first_step_s": first_s,
    }  # fmt: skip
    if device.type == "cuda":
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return found | {"details": {"encoder": config.encoder, "waits": dict(waits)}}


class counting:
    """Counts where the host waits for the GPU inside; with None, nothing."""

    def __init__(self, found: Counter[str] | None) -> None:
        self.found = found if torch.cuda.is_available() else None
        self.caught: Any = warnings.catch_warnings(record=True)

    def __enter__(self) -> None:
        if self.found is not None:
            self.said = self.caught.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")

    def __exit__(self, *error: object) -> None:
        if self.found is not None:
            torch.cuda.set_sync_debug_mode("default")
            self.caught.__exit__(*error)
            for one in self.said:
                if "called a synchronizing" in str(one.message):
                    self.found[f"{one.filename}:{one.lineno}"] += 1


def compiled(place: Place, config: TrainConfig) -> Figures:
    if not torch.cuda.is_available():
        return {"outcome": "no GPU"}
    if not compile_in_place(torch.nn.Identity(), place.device):
        return {"outcome": "no compiler"}
    return steps(place, replace(config, compile=True))


def sigreg(place: Place) -> Figures:
    """Milliseconds forward and backward: the fused kernels, and the formula written out."""
    from benchmarks.sigreg import measure, ours, plain

    found = outcome()
    sizes = ((64, 64),) if place.small else ((256, 1024), (1024, 1024), (4096, 1024))
    rows = []
    for images, slices in sizes:
        row = measure({"plain": plain, "ours": ours}, images, slices, place.device.type, 4.0)
        rows.append(row)
        found[f"{images}x{slices}"] = "{ours:.3f} ms, plain {plain:.3f} ms".format(**row["ms"])
    return found | {"details": rows}


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


ROWS: dict[str, Callable[[Place], Figures]] = {
    "machine": machine,
    "tests": tests,
    "step-resnet": lambda place: steps(place, resnet_settings(place)),
    "step-vit": lambda place: steps(place, vit_settings(place)),
    "compile-resnet": lambda place: compiled(place, resnet_settings(place)),
    "compile-vit": lambda place: compiled(place, vit_settings(place)),
    "sigreg": sigreg,
    "end-to-end": end_to_end,
    "bundling": bundling,
    "ranks": two_ranks,
    "export": export,
}
