"""Which device a command computes on, and one sentence where it cannot."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from jepack.errors import ConfigError, DependencyError
from jepack.machine import allocation

logger = logging.getLogger(__name__)


def choose_device(wanted: str | None = None) -> torch.device:
    """`wanted` is cpu, cuda (under torchrun each rank its own GPU), cuda:N, or None: a GPU if one works.

    A process that is to compute on the CPU keeps from now on the memory that it frees.

    Raises ConfigError for another word and for a GPU that is not there, DependencyError where this
    torch, this driver or this GPU do not go together.
    """
    device = named_device(wanted)
    if device.type == "cpu":
        allocation.keep_freed()
    return device


def named_device(wanted: str | None) -> torch.device:
    if wanted is None:
        return any_device()
    word, _, number = wanted.strip().lower().partition(":")
    if word == "cpu" and number in ("", "0"):
        return torch.device("cpu")
    if word != "cuda" or (number and not number.isdecimal()) or wanted.strip().endswith(":"):
        raise ConfigError(
            f"--device takes cpu, cuda or cuda:N (N a GPU's number), found {wanted!r}"
        )
    reason = why_no_gpu()
    if reason is not None:
        raise DependencyError(f"--device {wanted}: {reason} Or use --device cpu.")
    device = torch.device("cuda", int(number) if number else own_index())
    count = torch.cuda.device_count()
    if device.index >= count:
        raise ConfigError(
            f"--device {wanted}: there is no such GPU, torch sees {count} (cuda:0"
            + (f" to cuda:{count - 1}" if count > 1 else "")
            + "). CUDA_VISIBLE_DEVICES chooses which it sees"
        )
    fault = why_not_usable(device)
    if fault is not None:
        raise DependencyError(f"--device {wanted}: {fault} Or use --device cpu.")
    return device


def any_device() -> torch.device:
    """This rank's GPU; the CPU where there is none, with a warning where one is there but cannot be used."""
    reason = why_no_gpu()
    if reason is not None:
        if reason != NO_CUDA and os.path.exists("/dev/nvidiactl"):
            logger.warning("Computing on the CPU: %s", reason)
        return torch.device("cpu")
    device = torch.device("cuda", own_index())
    fault = why_not_usable(device)
    if fault is None:
        return device
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # the other ranks might choose otherwise
        raise DependencyError(f"{fault} Or use --device cpu.")
    logger.warning("Computing on the CPU: %s", fault)
    return torch.device("cpu")


def own_index() -> int:
    """The GPU of this rank. Ranks that torchrun starts see the same GPUs, so each needs one of its own."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    count = torch.cuda.device_count()
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return local % count  # such as srun with a GPU per task: each rank sees its own alone
    if local >= count:
        ranks = os.environ.get("LOCAL_WORLD_SIZE", str(local + 1))
        raise ConfigError(
            f"{ranks} ranks on this machine and {count} GPU(s). Use --nproc-per-node {count}, or "
            "--device cpu; --device cuda:0 lets all ranks share one GPU, which is slower than one rank"
        )
    return local


NO_CUDA = (
    "this torch was built without CUDA. Install one that has it: https://pytorch.org/get-started."
)


def why_no_gpu() -> str | None:
    """Why torch sees no GPU, as a sentence; None where it sees one."""
    if torch.version.cuda is None and torch.version.hip is None:
        return NO_CUDA
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if torch.cuda.is_available() and torch.cuda.device_count() > 0:
            return None
    told = [str(warning.message).split(" (Triggered internally")[0].strip() for warning in said]
    if told:  # such as a driver that is too old for this torch
        return f"torch cannot use CUDA here ({told[0]})."
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = f" (CUDA_VISIBLE_DEVICES is {visible!r})" if visible is not None else ""
    return f"torch sees no GPU{hidden}. `nvidia-smi` shows whether the driver does."


def why_not_usable(device: torch.device) -> str | None:
    """Why a first sum on the GPU fails, as a sentence; None where it does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of an old GPU before it fails on it
        try:
            torch.ones(2, device=device).sum().item()
        except RuntimeError as error:
            first = str(error).strip().splitlines()[0]
        else:
            return None
        if "no kernel image" not in first:
            return f"the GPU cannot be used ({first})."
        name = torch.cuda.get_device_name(device)
        major, minor = torch.cuda.get_device_capability(device)
    return (
        f"{name} is of compute capability {major}.{minor}, and this torch ({torch.__version__}) was built "
        f"for {' '.join(torch.cuda.get_arch_list())}. Install a torch whose list has it."
    )


def upload(
    array: npt.NDArray[Any], device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """An array on the device. From ordinary memory the copy would wait for all that a GPU has queued."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, dtype, non_blocking=True)


def exact_float32() -> Any:
    """Float32 that is float32: a GPU's convolutions else round to 10 bits (TF32)."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
