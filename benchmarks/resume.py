"""kill -9 at random moments, resume, compare every bit with a run that nothing disturbed.

    python -m benchmarks.resume --tries 50                 # one process, half an hour on one core
    python -m benchmarks.resume --tries 5 --ranks 2 --out benchmarks/results/resume_ranks.json

Every step writes a checkpoint, so that many kills come while one is being written. A try: start the run
afresh in its own process, kill it at a moment drawn between its first step and its end (the writing of
the bundle included), give the same command again, let it end. Equal means: every loss and evaluation in
the log, every tensor of the last checkpoint (weights, their average, the optimizer's moments) and the
bundle's fingerprints. The images of a step are a function of (seed, step); others would give other losses.
With --ranks, one rank of torchrun is killed instead and torchrun restarts all of them by itself.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table

from jepack.cli import main as main_of_jepack
from jepack.files import write_json
from jepack.sources import demo
from training.run import load_newest

OUT = Path(__file__).parent / "results" / "resume.json"
SETTINGS = (
    "eval_size=32", "global_views=2", "projector_hidden=64", "projection_dims=16", "slices=64",
    "minutes=null", "evaluate_epochs=1", "workers=2", "checkpoint_minutes=0",
)  # fmt: skip
WAIT_S = 300
Json = dict[str, Any]


def command(data: Path, run: Path, options: argparse.Namespace) -> list[str]:
    words = [sys.executable, "-m"]
    if options.ranks > 1:
        words += [
            "torch.distributed.run", "--standalone", f"--nproc-per-node={options.ranks}",
            "--max-restarts=3", "-m",
        ]  # fmt: skip
    words += ["jepack", "train", str(data), "--out", str(run), "--recipe", "quickstart"]
    words += ["--device", "cpu"]
    words += ["--encoder", options.encoder, "--size", "32", "--precision", "fp32"]
    words += ["--images-per-step", "32", "--epochs", str(options.epochs), "--preset", "satellite"]
    return words + [word for setting in SETTINGS for word in ("--set", setting)]


class Forked:
    """The command in a process forked from one that has imported everything: saves 5 s a start."""

    def __init__(self, words: list[str], log: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["training.train", "torch.utils.tensorboard"])
        self.process = context.Process(target=run_command, args=(words[4:], log))
        self.process.start()

    def poll(self) -> int | None:
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()  # SIGKILL

    def wait(self) -> int:
        self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode


def run_command(words: list[str], log: Path) -> None:
    with log.open("ab") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    torch.set_num_threads(1)
    sys.argv = ["jepack", "train", *words]
    main_of_jepack()


def start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # as deploy/launch.sh, which says why
    }  # fmt: skip
    with log.open("ab") as stream:
        return subprocess.Popen(words, env=environment, stdout=stream, stderr=stream)


def steps_in(run: Path) -> int:
    """How many steps the log holds; 0 before the first."""
    path = run / "log.jsonl"
    return path.read_bytes().count(b'"loss"') if path.is_file() else 0


def until_step(run: Path, step: int, child: subprocess.Popen[bytes] | Forked) -> None:
    deadline = time.monotonic() + WAIT_S
    while steps_in(run) < step and child.poll() is None:
        if time.monotonic() > deadline:
            child.kill()
            raise SystemExit(f"{run}: no step {step} within {WAIT_S} s, see {run.parent}")
        time.sleep(0.005)


def trace(run: Path) -> Json:
    """All that must be equal: losses, tensors, fingerprints."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    state = load_newest(run, torch.device("cpu"), print)
    assert state is not None
    manifest = json.loads((run / "bundle" / "manifest.json").read_text())
    return {
        "losses": [(line["step"], line["loss"]) for line in lines if "loss" in line],
        "evaluations": [line for line in lines if "evaluation" in line],
        "tensors": tensors_of(state),
        "fingerprints": manifest["fingerprints"],
    }


def tensors_of(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return {name: value}
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)  # type: ignore[assignment]
    else:
        return {}
    return {k: v for key, part in parts for k, v in tensors_of(part, f"{name}.{key}").items()}


def differences(one: Json, other: Json) -> list[str]:
    """What is not equal, in words; empty when every bit is the same."""
    found = [name for name in ("losses", "evaluations", "fingerprints") if one[name] != other[name]]
    a, b = one["tensors"], other["tensors"]
    if a.keys() != b.keys() or any(not torch.equal(a[name], b[name]) for name in a):
        found.append("tensors")
    return found


def killed_process(words: list[str], run: Path, wait_s: float, rng: Any) -> Json:
    """Kill -9 the one process, then give the same command again."""
    child = Forked(words, run.with_suffix(".txt"))
    until_step(run, 1, child)
    time.sleep(wait_s)
    child.kill()
    ended = child.wait() == 0  # before the kill came
    reached, saved = steps_in(run), newest(run)
    mid_save = bool(list((run / "checkpoints").glob(".step-*")))
    mid_bundle = not ended and bool(list(run.glob(".bundle*")))
    begin = time.monotonic()
    again = Forked(words, run.with_suffix(".txt"))
    resumed_s = None
    while again.poll() is None:
        if resumed_s is None and newest(run) > saved:
            resumed_s = time.monotonic() - begin
        time.sleep(0.02)
    return {
        "killed_after_s": round(wait_s, 3), "steps_done": reached, "newest_checkpoint": saved,
        "ended_before_kill": ended, "mid_save": mid_save, "mid_bundle": mid_bundle,
        "exit_code": again.poll(),
        "seconds_to_next_checkpoint": None if resumed_s is None else round(resumed_s, 2),
    }  # fmt: skip


def killed_rank(words: list[str], run: Path, wait_s: float, rng: Any) -> Json:
    """Kill -9 one rank; torchrun notices, ends the others and starts all of them again."""
    child = start(words, run.with_suffix(".txt"))
    until_step(run, 1, child)
    time.sleep(wait_s)
    ranks = [p for p in psutil.Process(child.pid).children() if "train" in p.cmdline()]
    saved, begin, resumed_s = newest(run), time.monotonic(), None
    victim = int(rng.integers(len(ranks))) if ranks else -1
    if ranks:
        ranks[victim].kill()
    while child.poll() is None:
        if resumed_s is None and newest(run) > saved + 1:
            resumed_s = time.monotonic() - begin
        if time.monotonic() > begin + WAIT_S:
            child.kill()
        time.sleep(0.02)
    return {
        "killed_after_s": round(wait_s, 3), "rank": victim, "newest_checkpoint": saved,
        "ended_before_kill": not ranks, "mid_save": False, "mid_bundle": False,
        "exit_code": child.returncode,
        "seconds_to_next_checkpoint": None if resumed_s is None else round(resumed_s, 2),
    }  # fmt: skip


def newest(run: Path) -> int:
    found = sorted((run / "checkpoints").glob("step-*"))
    return int(found[-1].name[5:]) if found else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--tries", type=int, default=50)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--encoder", default="test_vit")
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", type=Path, default=Path("runs/resume"))
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    work = options.work / f"{options.ranks}-ranks"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    data = some_tiles(options.work / "data")
    calm = work / "calm"
    if start(command(data, calm, options), work / "calm.txt").wait():
        raise SystemExit(f"the undisturbed run failed, see {work / 'calm.txt'}")
    wanted = trace(calm)
    again = work / "again"  # for the time it takes, and a rerun must give the same bits, too
    child = (
        start(command(data, again, options), work / "again.txt")
        if options.ranks > 1
        else Forked(command(data, again, options), work / "again.txt")
    )
    until_step(again, 1, child)
    begin = time.monotonic()
    if child.wait() or differences(wanted, trace(again)):
        raise SystemExit(f"two undisturbed runs differ, see {work}")
    span = time.monotonic() - begin
    console = Console(stderr=True)
    console.print(f"undisturbed: {len(wanted['losses'])} steps and the bundle in {span:.1f} s")
    rng = np.random.default_rng(options.seed)
    tries: list[Json] = []
    while sum(not one["ended_before_kill"] for one in tries) < options.tries:
        number = len(tries)
        run = work / f"try-{number:02d}"
        disturb = killed_process if options.ranks == 1 else killed_rank
        found = disturb(command(data, run, options), run, float(rng.uniform(0, span)), rng)
        if found["exit_code"] == 0:
            found["differences"] = differences(wanted, trace(run))
        found["equal"] = found["exit_code"] == 0 and not found["differences"]
        tries.append(found)
        console.print(f"try {number + 1}: {json.dumps(found)}", highlight=False, soft_wrap=True)
        if found["equal"]:
            shutil.rmtree(run)
    result = summary(tries, len(wanted["losses"]), options)
    write_json(options.out, result)
    show(result, console)
    if not all(one["equal"] for one in tries):
        raise SystemExit(1)


def some_tiles(folder: Path) -> Path:
    """One Earth tile in six: the fewer images, the shorter a try."""
    target = folder / "some"
    if not target.is_dir():
        whole = demo.prepare("earth", folder)
        for path in sorted(whole.rglob("*.png"))[::6]:
            copy = target / path.relative_to(whole)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    return target


def summary(tries: list[Json], steps: int, options: argparse.Namespace) -> Json:
    disturbed = [one for one in tries if not one["ended_before_kill"]]
    waits = [one["seconds_to_next_checkpoint"] for one in disturbed]
    known = [wait for wait in waits if wait is not None]
    return {
        "encoder": options.encoder, "ranks": options.ranks, "steps": steps,
        "checkpoint": "every step", "tries": len(tries), "killed": len(disturbed),
        "killed_while_a_checkpoint_was_written": sum(one["mid_save"] for one in disturbed),
        "killed_while_the_bundle_was_written": sum(one["mid_bundle"] for one in disturbed),
        "ended_well": sum(one["exit_code"] == 0 for one in tries),
        "bitwise_equal": sum(one["equal"] for one in tries),
        "seconds_to_next_checkpoint_median": float(np.median(known)) if known else None,
        "seconds_to_next_checkpoint_most": max(known, default=None),
        "machine": {
            "cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__,
        },
        "rows": tries,
    }  # fmt: skip


def show(result: Json, console: Console) -> None:
    table = Table(box=None, title=f"{result['encoder']}, {result['ranks']} rank(s)")
    table.add_column("figure")
    table.add_column("found")
    for name, value in result.items():
        if not isinstance(value, (list, dict)):
            table.add_row(name.replace("_", " "), str(value))
    console.print(table)


if __name__ == "__main__":
    main()
