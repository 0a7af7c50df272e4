"""SIGReg, forward and backward: the plain formula, ours, stable-pretraining's. Time and peak memory.

Every row is one run in which the contenders take turns, so read the ratios, not the times. One view,
64 dimensions, float32.

    python -m benchmarks.sigreg --images 1024 --slices 1024            (half a minute)
    python -m benchmarks.sigreg --threads 2                            (the whole grid; 10 minutes)
    pip install --no-deps --target FOLDER stable-pretraining
    python -m benchmarks.sigreg --stable-pretraining FOLDER --device cuda
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders import Loss, stable_pretraining
from jepack.files import write_json
from jepack.sigreg import KNOTS, random_directions, sigreg

IMAGES = (256, 1024, 4096, 16384)
SLICES = (256, 1024, 4096)
DIMENSIONS = 64
OUT = Path(__file__).parent / "results"
PLAIN_TENSORS = 5  # of [N, M, T], alive at the peak of the plain formula's forward and backward

clock = time.perf_counter


def plain(z_ND: Tensor, directions_DM: Tensor) -> Tensor:
    return sigreg(z_ND[None], directions_DM, implementation="plain")


def ours(z_ND: Tensor, directions_DM: Tensor) -> Tensor:
    return sigreg(z_ND[None], directions_DM)


def one_step(loss: Loss, z: Tensor, directions: Tensor) -> None:
    leaf = z.detach().requires_grad_()
    loss(leaf, directions).backward()  # type: ignore[no-untyped-call]


def seconds(loss: Loss, z: Tensor, directions: Tensor, steps: int) -> float:
    """Mean over `steps` back to back, as a training loop would queue them."""
    if z.is_cuda:
        torch.cuda.synchronize()
    start = clock()
    for _ in range(steps):
        one_step(loss, z, directions)
    if z.is_cuda:
        torch.cuda.synchronize()
    return (clock() - start) / steps


def peak_mib(loss: Loss, z: Tensor, directions: Tensor) -> float | None:
    """Memory on top of what was held before the step. None where it cannot be read (not Linux)."""
    if z.is_cuda:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        one_step(loss, z, directions)
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    with contextlib.suppress(OSError, AttributeError):  # not glibc: figures come out too low
        ctypes.CDLL(None).malloc_trim(0)  # or the step would fill what earlier ones left
    reset.write_text("5")  # the high-water mark starts anew
    before = resident_kib("VmRSS")
    one_step(loss, z, directions)
    return (resident_kib("VmHWM") - before) / 2**10


def resident_kib(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise RuntimeError(f"no {field} in /proc/self/status")


def measure(
    contenders: dict[str, Loss | str], images: int, slices: int, device: str, budget_s: float
) -> dict[str, Any]:
    """One row: median of alternating repeats, at least three, within about `budget_s` seconds."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(images, DIMENSIONS, generator=generator).to(device)
    directions = random_directions(DIMENSIONS, slices, step=0, device=device)
    row: dict[str, Any] = {"images": images, "slices": slices, "not_run": {}}
    runs: dict[str, Loss] = {}
    for name, loss in contenders.items():
        if isinstance(loss, str):
            row["not_run"][name] = loss
        else:
            runs[name] = loss
    first, steps, times, memory = {}, {}, {}, {}
    for name, loss in runs.items():
        first[name] = seconds(loss, z, directions, 1)
        steps[name] = max(1, min(50, int(0.05 / seconds(loss, z, directions, 1))))
        memory[name] = peak_mib(loss, z, directions)
        times[name] = [seconds(loss, z, directions, steps[name])]
    round_s = sum(times[name][0] * steps[name] for name in runs)
    for _ in range(max(2, min(20, int(budget_s / round_s)))):
        for name, loss in runs.items():
            times[name].append(seconds(loss, z, directions, steps[name]))
    row["first_call_s"] = first
    row["peak_mib"] = memory
    row["ms"] = {name: 1000 * statistics.median(values) for name, values in times.items()}
    row["faster"] = {name: value / row["ms"]["ours"] for name, value in row["ms"].items()}
    return row


def show(row: dict[str, Any]) -> None:
    def cell(figures: dict[str, Any], name: str, style: str) -> str:
        return format(figures[name], style) if figures.get(name) is not None else "-"

    names = ("plain", "ours", "stable")
    parts = [f"{row['images']:6d} x {row['slices']:4d}"]
    parts += [cell(row["ms"], name, "9.2f") for name in names]
    parts += [cell(row["faster"], name, "6.1f") for name in ("plain", "stable")]
    parts += [cell(row["peak_mib"], name, "8.0f") for name in names]
    print("  ".join(part.rjust(6) for part in parts), flush=True)


def cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def machine(device: str) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, nargs="+", default=IMAGES)
    parser.add_argument("--slices", type=int, nargs="+", default=SLICES)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's choice")
    parser.add_argument("--seconds", type=float, default=20, help="about, per row")
    parser.add_argument("--memory-gib", type=float, default=8, help="skip what would need more")
    parser.add_argument("--stable-pretraining", type=Path, help="folder it was installed in")
    parser.add_argument("--out", type=Path, help="JSON (default: benchmarks/results/)")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="count the processor's time on one thread: comparable on a machine busy with else",
    )
    options = parser.parse_args()
    if options.processor_time:
        global clock
        options.threads, clock = 1, time.process_time
    if options.threads:
        torch.set_num_threads(options.threads)
    report: dict[str, Any] = {**machine(options.device), "dimensions": DIMENSIONS, "rows": []}
    report["clock"] = "processor time" if options.processor_time else "wall"
    print(f"{report['device']}, {report['threads']} threads, torch {report['torch']}")
    print(
        "images x slices, ms: plain, ours, stable-pretraining | ours is faster than plain, stable by"
    )
    print("| peak MiB: plain, ours, stable")
    out = options.out or OUT / f"sigreg_{options.device}.json"
    for images in options.images:
        for slices in options.slices:
            contenders: dict[str, Loss | str] = {"plain": plain, "ours": ours}
            contenders["stable"] = stable_pretraining(
                options.stable_pretraining, slices, options.device
            )
            need_gib = PLAIN_TENSORS * images * slices * KNOTS * 4 / 2**30
            if need_gib > options.memory_gib:
                reason = f"needs {need_gib:.0f} GiB, more than --memory-gib {options.memory_gib:g}"
                contenders.update(plain=reason, stable=reason)
            row = measure(contenders, images, slices, options.device, options.seconds)
            show(row)
            report["rows"].append(row)
            write_json(out, report)
    for name, reason in {k: v for row in report["rows"] for k, v in row["not_run"].items()}.items():
        print(f"not run everywhere: {name}: {reason}")
    print(f"written: {out}")


if __name__ == "__main__":
    main()
