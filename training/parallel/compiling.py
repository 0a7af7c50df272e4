"""torch.compile where it can work."""

from __future__ import annotations

import logging
import os
import shutil

import torch
from torch import nn

logger = logging.getLogger(__name__)


def compile_in_place(module: nn.Module, device: torch.device, mode: str | None = None) -> bool:
    """Compile a module's forward; False, with a warning, where there is no compiler for it.

    Names of weights stay as they are. `mode` is torch.compile's. Inductor writes C++ for a CPU, and Triton
    builds its launcher with C.
    """
    wanted = ("g++", "clang++") if device.type == "cpu" else ("gcc", "clang")
    given = os.environ.get("CXX" if device.type == "cpu" else "CC")
    if not given and not any(shutil.which(name) for name in wanted):
        logger.warning(
            "The backbone runs uncompiled: no %s found. Install it (Debian and Ubuntu: "
            "apt-get install g++), or leave compile out.",
            " or ".join(wanted),
        )
        return False
    module.compile(dynamic=False, mode=mode)
    return True
