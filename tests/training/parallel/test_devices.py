"""`--device`: a device that works, or one sentence. GPUs are pretended: this runs without one."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from jepack.cli import app
from jepack.errors import ConfigError, DependencyError, JepackError
from training.parallel import choose_device, devices, distributed

RANKED = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE", "TORCHELASTIC_RUN_ID")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with this many GPUs that work; `rank` as torchrun would set it."""

    def pretend(count: int, rank: int | None = None, ranks: int = 1) -> None:
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(devices, "why_not_usable", lambda device: None)
        if rank is not None:
            monkeypatch.setenv("LOCAL_RANK", str(rank))
            monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
            monkeypatch.setenv("WORLD_SIZE", str(ranks))
            monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")

    for name in RANKED:
        monkeypatch.delenv(name, raising=False)
    return pretend


@pytest.mark.parametrize(
    ("wanted", "count", "rank", "found"),
    [
        ("cpu", 2, None, "cpu"),
        ("cuda", 1, None, "cuda:0"),
        ("cuda:1", 2, None, "cuda:1"),
        (None, 2, None, "cuda:0"),
        (None, 0, None, "cpu"),
        ("cuda", 4, 3, "cuda:3"),  # each rank its own
        (None, 4, 2, "cuda:2"),
        ("cuda:0", 1, 1, "cuda:0"),  # ranks that share the one they name
    ],
)
def test_the_device_is_the_one_that_is_named_or_this_ranks_gpu(
    gpus: Any, wanted: str | None, count: int, rank: int | None, found: str
) -> None:
    gpus(count, rank, 4)
    assert choose_device(wanted) == torch.device(found)


@pytest.mark.parametrize(
    "wanted", ["mps", "gpu", "cuda:x", "cuda:-1", "cuda:", "0", "xpu", "cpu:3", ""]
)
def test_another_word_is_refused_with_those_that_work(gpus: Any, wanted: str) -> None:
    gpus(2)
    with pytest.raises(ConfigError, match=r"takes cpu, cuda or cuda:N .*found"):
        choose_device(wanted)


def test_a_gpu_that_is_not_there_is_refused_with_those_that_are(gpus: Any) -> None:
    gpus(2)
    with pytest.raises(ConfigError, match=r"cuda:9: there is no such GPU.*cuda:0 to cuda:1"):
        choose_device("cuda:9")


@pytest.mark.parametrize("wanted", ["cuda", None])
def test_more_ranks_than_gpus_are_refused_with_the_number_that_fits(
    gpus: Any, wanted: str | None
) -> None:
    gpus(2, rank=3, ranks=4)
    with pytest.raises(ConfigError, match=r"4 ranks on this machine and 2 GPU.*--nproc-per-node 2"):
        choose_device(wanted)


def test_ranks_that_each_see_one_gpu_take_it(gpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(1, rank=3, ranks=4)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")  # srun with a GPU per task, not torchrun
    assert choose_device("cuda") == torch.device("cuda:0")


def test_a_torch_without_cuda_says_where_to_get_one(
    gpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(0)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(DependencyError, match=r"built without CUDA.*pytorch\.org.*--device cpu"):
        choose_device("cuda")


def test_a_driver_that_is_too_old_is_told_in_torchs_words(
    gpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(0)

    def old_driver() -> bool:
        warnings.warn(
            "CUDA initialization: The NVIDIA driver on your system is too old", stacklevel=1
        )
        return False

    monkeypatch.setattr(torch.cuda, "is_available", old_driver)
    with pytest.raises(DependencyError, match=r"driver on your system is too old.*--device cpu"):
        choose_device("cuda:0")


def test_hidden_gpus_are_told(gpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(DependencyError, match="CUDA_VISIBLE_DEVICES is ''"):
        choose_device("cuda")


def fail_on_gpu(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    def ones(*_: Any, device: Any = None, **__: Any) -> Any:
        raise RuntimeError(text)

    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla K80")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (3, 7))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90"])


OLD = "CUDA error: no kernel image is available for execution on the device\nmore"


def test_a_gpu_too_old_for_this_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_on_gpu(monkeypatch, OLD)
    told = devices.why_not_usable(torch.device("cuda:0"))
    assert told is not None
    assert "Tesla K80 is of compute capability 3.7" in told
    assert "sm_75 sm_90" in told


def test_a_gpu_that_fails_otherwise_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_on_gpu(monkeypatch, "CUDA error: all CUDA-capable devices are busy or unavailable")
    assert "busy or unavailable" in str(devices.why_not_usable(torch.device("cuda:0")))


def test_a_gpu_that_fails_is_an_error_where_it_was_asked_for_and_else_the_cpu_with_a_word(
    gpus: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gpus(1)
    monkeypatch.setattr(devices, "why_not_usable", lambda device: "it is too old.")
    with pytest.raises(DependencyError, match=r"it is too old\. Or use --device cpu"):
        choose_device("cuda")
    with caplog.at_level(logging.WARNING):
        assert choose_device() == torch.device("cpu")
    assert "on the CPU: it is too old" in caplog.text
    monkeypatch.setenv("WORLD_SIZE", "2")  # one rank must not choose otherwise than the rest
    with pytest.raises(DependencyError, match="too old"):
        choose_device()


@pytest.mark.parametrize(
    ("wanted", "chosen", "ranks", "backend"),
    [
        ("cuda", "cuda:1", "2", "nccl"),
        (None, "cuda:1", "2", "nccl"),
        ("cuda:0", "cuda:0", "2", "gloo"),  # NCCL refuses two ranks on one GPU
        ("cuda:0", "cuda:0", "1", "nccl"),  # one rank on each of several machines
        ("cpu", "cpu", "2", "gloo"),
    ],
)
def test_ranks_with_a_gpu_each_talk_over_nccl_and_others_over_gloo(
    monkeypatch: pytest.MonkeyPatch, wanted: str | None, chosen: str, ranks: str, backend: str
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    monkeypatch.setattr(distributed.dist, "is_nccl_available", lambda: True)
    assert distributed.backend_for(wanted, torch.device(chosen)) == backend


@pytest.mark.parametrize(
    "words",
    [
        ["train", "nowhere"],
        ["train", "nowhere", "--dry-run"],
        ["sweep", "nowhere", "--grid", "sigreg_weight=0.1"],
        ["probe", "timm:test_vit", "--data", "nowhere"],
        ["import", "timm:test_vit", "--data", "nowhere", "--out", "out"],
    ],
)
def test_every_command_refuses_a_wrong_device_before_it_reads_anything(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nowhere").mkdir()  # holds no image, which would be told
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JepackError, match="--device takes cpu, cuda or cuda:N"):
        typer.main.get_command(app).main([*words, "--device", "mps"], standalone_mode=False)
    assert list(tmp_path.iterdir()) == [tmp_path / "nowhere"]
