"""Everything that only a GPU can show: speed in about ten minutes, then tests, ranks, a run to its bundle.

    python -m benchmarks.gpu OUT --contenders FOLDER         (a GPU: the rows of speed, then others in time)
    python -m benchmarks.gpu OUT --rows rest                 (the others: as long again)
    python -m benchmarks.gpu OUT --rows step-vit,graphs-vit  (some)
    python -m benchmarks.gpu OUT --tiny                      (small sizes, also on a CPU, to try it)

    pip install --no-deps --target FOLDER lightly==1.6.* lightly-utils stable-pretraining==0.1.8

Rows of speed, for ResNet-18 with 8 views of 128 px and ViT-S/16 with 2 of 224 and 6 of 96: step as it is;
compile; graphs (torch.compile's mode "reduce-overhead"); aside (views on a second stream); beside
(stable-pretraining's step); and sigreg beside lightly's and stable-pretraining's. Compilers start anew.

Each row is a process with a time limit of its own; one that fails is told with its error and the rest go
on. OUT holds `gpu.md` and `gpu.json` from the first row on, and a log and a JSON file of every row. Nothing
need be installed but the packages it imports: torch torchvision timm numpy pillow opencv-python-headless
safetensors rich typer scikit-learn matplotlib tensorboard psutil huggingface_hub; for the row `tests` also
pytest pytest-timeout; for `export` onnx onnxscript onnxruntime-gpu.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Row: seconds it may take. The order is that of what one wants to know first.
SPEED = {
    "machine": 60,
    "step-resnet": 90,
    "step-vit": 90,
    "sigreg": 60,
    "beside-resnet": 60,
    "beside-vit": 60,
    "compile-vit": 150,
    "compile-resnet": 150,
    "graphs-vit": 150,
    "graphs-resnet": 150,
    "aside-resnet": 60,
    "aside-vit": 60,
}
REST = {"ranks": 150, "end-to-end": 120, "bundling": 90, "tests": 300, "export": 120}
LIMITS = SPEED | REST
GROUPS = {"speed": ",".join(SPEED), "rest": ",".join(REST), "all": ",".join(LIMITS)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--rows", default="all", help="speed, rest, all, or rows by comma")
    parser.add_argument(
        "--contenders", type=Path, help="folder that lightly and stable-pretraining are in"
    )
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="no row starts or runs after that"
    )
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the script")
    parser.add_argument(
        "--work", type=Path, help="folder of pictures and runs (default: temporary)"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a row, in its own process
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.one:
        from benchmarks.gpu_rows import ROWS, Place

        place = Place(options.out.resolve(), options.work, options.tiny, options.contenders)
        found = ROWS[options.one](place)
        (options.out / f"{options.one}.json").write_text(json.dumps(found, indent=1))
        return
    options.rows = GROUPS.get(options.rows, options.rows)
    unknown = set(options.rows.split(",")) - set(LIMITS)
    if unknown:
        parser.error(f"no row {', '.join(unknown)}; there are {', '.join([*GROUPS, *LIMITS])}")
    # So that a row does not outlive us where we are ended, as by `timeout`.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="jepack-gpu-") as scratch:
        run_rows(options, options.work or Path(scratch))


def run_rows(options: argparse.Namespace, work: Path) -> None:
    ends = time.monotonic() + 60 * options.minutes
    patience = 3 if options.tiny else 1  # a CPU may be busy with else
    results: list[dict[str, Any]] = []
    for name in options.rows.split(","):
        left = ends - time.monotonic()
        if left < 10:
            result: dict[str, Any] = {
                "row": name,
                "outcome": "not run: the time is up",
                "seconds": 0.0,
            }
        else:
            result = run_row(name, options, work, min(left, LIMITS[name] * patience))
        results.append(result)
        print(line_of(result), flush=True)
        (options.out / "gpu.json").write_text(json.dumps(results, indent=1))
        (options.out / "gpu.md").write_text(table(results))
    print(f"written: {options.out / 'gpu.md'}")


def run_row(name: str, options: argparse.Namespace, work: Path, limit_s: float) -> dict[str, Any]:
    """The row's own process, and all that it started, ended when its time is up."""
    started = time.monotonic()
    answer, log = options.out / f"{name}.json", options.out / f"{name}.log"
    answer.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu", str(options.out.resolve()), "--one", name]
    command += ["--work", str(work.resolve()), *(["--tiny"] if options.tiny else [])]
    if options.contenders is not None:
        command += ["--contenders", str(options.contenders.resolve())]
    places = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, places)),
        "JEPACK_CACHE": str(work.resolve() / "cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(work.resolve() / "inductor" / name),
    }
    with log.open("w") as output:
        child = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            code: int | None = child.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    result: dict[str, Any] = {"row": name, "seconds": round(time.monotonic() - started, 1)}
    if code == 0 and answer.is_file():
        found = json.loads(answer.read_text())
        return result | {"outcome": found.pop("outcome", "measured"), "figures": found}
    last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
    outcome = f"over its {limit_s:.0f} s" if code is None else f"failed (exit {code})"
    return result | {"outcome": f"{outcome}: {''.join(last)[:300]}", "log": log.name}


def line_of(result: dict[str, Any]) -> str:
    figures = result.get("figures", {})
    told = "  ".join(f"{key} {short(value)}" for key, value in figures.items() if key != "details")
    return f"{result['row']:<15} {result['seconds']:>6.1f} s  {result['outcome']}  {told}".rstrip()


def short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(results: list[dict[str, Any]]) -> str:
    rows = ["| row | s | outcome | figures |", "|---|---|---|---|"]
    for result in results:
        figures = result.get("figures", {})
        told = "; ".join(f"{k} {short(v)}" for k, v in figures.items() if k != "details")
        cells = (result["row"], f"{result['seconds']:.0f}", result["outcome"], told)
        rows.append("| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
